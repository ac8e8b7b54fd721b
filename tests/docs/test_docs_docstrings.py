"""Examples in docstrings of the half that needs torch run; tests/pure has the other half."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import longpipe

HALF = ("cli", "data", "model", "runtime", "train")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(longpipe.__path__, prefix="longpipe.")
    if module.name.split(".")[1] in HALF
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert not failed, f"{failed} of {tried} examples; the output says which"


def test_there_are_examples() -> None:
    """So that a change of the layout cannot make the test above vacuous."""
    assert "longpipe.model.config" in MODULES
    assert doctest.testmod(import_module("longpipe.model.config")).attempted
