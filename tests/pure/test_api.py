"""The public names, what importing them costs, and that every docstring's example is true."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import longpipe

PUBLIC = {
    "Costs", "Event", "Kind", "LongpipeError", "Metrics", "Op", "Placement", "Problem",
    "ProblemError", "Program", "Schedule", "ScheduleError", "Timeline", "UniformCosts",
    "add_messages", "build", "entries", "from_text", "from_torch_csv", "measure", "picture",
    "simulate", "to_text", "to_torch_csv", "validate",
}  # fmt: skip
PURE = ("ir", "schedules", "passes", "validate", "cost", "simulate", "view", "plan")


def modules(package: str) -> Iterator[str]:
    """Every module of a package of the pure half."""
    module = importlib.import_module(f"longpipe.{package}")
    yield module.__name__
    for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
        yield found.name


def test_public_names() -> None:
    """What `longpipe` exports is decided here, and everything in it says what it is for."""
    names = {
        name
        for name, value in vars(longpipe).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names == PUBLIC
    for name in names:
        assert getattr(longpipe, name).__doc__, name


def test_import_is_free() -> None:
    """No torch, no numpy, nothing printed, nobody's logging touched."""
    code = (
        "import sys, longpipe, logging; "
        "assert not {'torch', 'numpy', 'rich', 'typer'} & set(sys.modules); "
        "assert not logging.getLogger().handlers"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["longpipe", *(m for package in PURE for m in modules(package))])
def test_examples_in_docstrings(name: str) -> None:
    """They run and print what they say."""
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
