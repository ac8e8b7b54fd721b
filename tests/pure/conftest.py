"""The grid of Problems that every schedule is built on."""

from collections.abc import Iterator

import pytest

from longpipe.errors import ProblemError
from longpipe.ir import Problem, Schedule
from longpipe.schedules import build, entries


def grid() -> Iterator[Problem]:
    """Few and many ranks, fewer and more micro-batches than ranks, chunks, segments."""
    for p in (1, 2, 4, 8):
        for m in sorted({1, 2, max(1, p - 1), p, 2 * p, 3 * p + 1}):
            for k in (1, 2, 3, 4):
                for v in (1, 2, 3):
                    yield Problem(p, m, chunks=v, segments=k)


def buildable(name: str) -> Iterator[Schedule]:
    """The schedule on every Problem of the grid that it does not refuse."""
    for problem in grid():
        try:
            yield build(name, problem)
        except ProblemError:
            continue


@pytest.fixture(scope="session")
def problems() -> tuple[Problem, ...]:
    """The grid."""
    return tuple(grid())


@pytest.fixture(scope="session", params=[entry.name for entry in entries()])
def schedule_name(request: pytest.FixtureRequest) -> str:
    """Each registered schedule in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def schedules(schedule_name: str) -> tuple[Schedule, ...]:
    """Every Schedule of that name over the grid, built once: some of them search."""
    return tuple(buildable(schedule_name))
