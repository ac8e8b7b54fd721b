"""The pages made from the code are as the code is now."""

import json
import sys
from pathlib import Path

from longpipe import entries
from longpipe.train.config_file import known_names

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

from make_schedule_pages import pages  # noqa: E402


def test_made_pages_are_fresh() -> None:
    """Whole files; `make docs-pages` brings them up to date."""
    for name, text in pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs-pages`"


def test_no_page_is_left_of_a_schedule_that_is_gone() -> None:
    made = {name for name in pages() if name.startswith("schedules/")}
    assert {f"schedules/{path.name}" for path in (DOCS / "schedules").iterdir()} == made


def test_every_note_belongs_to_a_schedule() -> None:
    names = {entry.name for entry in entries()}
    assert {path.stem for path in (DOCS / "schedule_notes").glob("*.md")} <= names


def test_a_page_shows_its_golden_whole() -> None:
    for path in (DOCS.parent / "tests" / "goldens").rglob("*.txt"):
        page = (DOCS / "schedules" / f"{path.parent.name}.md").read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8").rstrip() in page


def test_every_schedule_is_measured_and_compared() -> None:
    """`make bench-slept` and `make frontier` have seen it."""
    compared = (DOCS / "frontier.md").read_text(encoding="utf-8")
    slept = json.loads((DOCS / "measured" / "slept.json").read_text(encoding="utf-8"))
    for entry in entries():
        assert f"\n| {entry.name} |" in compared, f"{entry.name}: run `make frontier`"
        rows = [row for row in slept["rows"] if row["schedule"] == entry.name]
        assert rows, f"{entry.name}: run `make bench-slept`"
        assert all(abs(row["ratio"] - 1) <= 0.05 for row in rows), entry.name


def test_every_setting_is_in_the_reference() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for name in known_names():
        section, _, key = name.partition(".")
        assert (f"| `{key}` |" if key else f"## [{section}]") in text
