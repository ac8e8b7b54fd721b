"""Every example in the documentation runs, or says why it is not run here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_examples import examples_of, run_console, run_python

from longpipe.schedules import _registry
from longpipe.train.config_file import load_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])
RUN = ("python", "console", "toml")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A schedule that an example registers is gone afterwards."""
    _registry.entries()
    monkeypatch.setattr(_registry, "_entries", dict(_registry._entries))
    _registry.entries.cache_clear()
    yield
    _registry.entries.cache_clear()


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace and one folder for each page."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    for example in examples_of(page.read_text(encoding="utf-8")):
        if example.reason is not None:
            continue
        if example.title:
            path = tmp_path / example.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(example.body, encoding="utf-8")
        if example.language == "python":
            run_python(example, names, page.name)
        elif example.language == "console":
            run_console(example, tmp_path)
        elif example.language == "toml" and example.title:
            load_config(tmp_path / example.title)


def test_what_is_not_run_is_little() -> None:
    """Training, other programs, and references; each with its reason."""
    reasons = {
        example.reason
        for page in PAGES
        for example in examples_of(page.read_text(encoding="utf-8"))
        if example.language in RUN and example.reason
    }
    assert reasons <= {
        "training",
        "a cluster's programs",
        "set-up",
        "the table above has its numbers",
        "a reference; the tutorial's examples run",
        "needs a run's checkpoint",
    }
