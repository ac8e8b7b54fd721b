"""The pictures of all schedules are those that were last looked at."""

import pytest
from regenerate_goldens import GOLDENS, pictures

from longpipe import Schedule, from_text, validate

PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_golden(name: str) -> None:
    """The whole file is equal; a change is made by `make goldens` and explained."""
    assert (GOLDENS / name).read_text(encoding="utf-8") == PICTURES[name]


def test_no_golden_is_left_over() -> None:
    """A file that no schedule makes any more is deleted."""
    there = {str(path.relative_to(GOLDENS)) for path in GOLDENS.rglob("*.txt")}
    assert there == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_schedule_file(name: str) -> None:
    """What the picture shows reads back as a valid schedule."""
    schedule = from_text(PICTURES[name])
    assert isinstance(schedule, Schedule)
    validate(schedule)
    assert schedule.name == name.split("/", maxsplit=1)[0]
