"""Any order that the data flow allows passes; any two ops swapped pass or are refused in place."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.errors import ScheduleError
from longpipe.ir import Kind, Op, Placement, Problem, Program, Schedule, needs, provides, walk
from longpipe.passes import add_messages
from longpipe.schedules import build
from longpipe.validate import validate

PLACE = re.compile(r"rank \d+, op \d+")
CASES = (
    ("1f1b", Problem(3, 4)),
    ("seq1f1b", Problem(3, 2, segments=(3, 2))),
    ("seq-zb-h1", Problem(2, 2, segments=3)),
    ("zb-v", Problem(3, 6, chunks=2)),
    ("seq1f1b-interleaved", Problem(2, 2, chunks=2, segments=2)),
)


@st.composite
def any_schedule(draw: st.DrawFn) -> Schedule:
    """A random order that the data flow allows, of a random problem on a random placement."""
    ranks = draw(st.integers(1, 4))
    counts = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    problem = Problem(ranks, len(counts), draw(st.integers(1, 2)), counts)
    stages = st.lists(
        st.integers(0, ranks - 1), min_size=problem.stages, max_size=problem.stages
    ).map(tuple)
    by_mb = draw(
        st.lists(stages, min_size=1, max_size=1)
        | st.lists(stages, min_size=len(counts), max_size=len(counts))
    )
    placement = Placement(ranks, tuple(by_mb))
    order = random.Random(draw(st.integers(0, 2**32)))
    waiting = []
    for slot in problem.unit_slots():
        backward = (Kind.B,) if order.random() < 0.5 else (Kind.I, Kind.W)
        waiting += [Op(kind, *slot) for kind in (Kind.F, *backward)]
    order.shuffle(waiting)
    done: set[Op] = set()
    rows: list[list[Op]] = [[] for _ in range(ranks)]
    while waiting:
        op = next(op for op in waiting if done.issuperset(needs(op, problem)))
        waiting.remove(op)
        done.add(provides(op))
        rows[placement(op.stage, op.mb)].append(op)
    return Schedule("any", problem, placement, tuple(map(tuple, rows)))


@settings(deadline=None, max_examples=150)
@given(any_schedule())
def test_whatever_the_data_flow_allows_passes_and_gets_messages(schedule: Schedule) -> None:
    validate(schedule)
    program = add_messages(schedule)
    assert program.schedule() == schedule
    for buffers in (0, 1, 2):
        validate(program, buffers=buffers)


def fault(what: Schedule | Program) -> str | None:
    """What `validate` says, if it refuses."""
    try:
        return validate(what)
    except ScheduleError as error:
        return str(error)


def walks(schedule: Schedule) -> bool:
    try:
        return sum(1 for _ in walk(schedule.rows, lambda op: needs(op, schedule.problem))) > 0
    except ScheduleError:
        return False


@pytest.mark.parametrize(("name", "problem"), CASES)
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_two_ops_swapped(name: str, problem: Problem, data: st.DataObject) -> None:
    schedule = build(name, problem)
    places = [(rank, position) for rank, position, _ in schedule]
    (rank, a), (other, b) = (data.draw(st.sampled_from(places)) for _ in range(2))
    rows = [list(row) for row in schedule.rows]
    rows[rank][a], rows[other][b] = rows[other][b], rows[rank][a]
    swapped = replace(schedule, rows=tuple(map(tuple, rows)))
    refused = fault(swapped)
    assert (refused is None) == ((rank == other and walks(swapped)) or swapped == schedule)
    if refused is None:
        validate(add_messages(swapped))
    else:
        assert PLACE.search(refused)


@pytest.mark.parametrize(("name", "problem"), CASES)
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_op_of_a_program_moved(name: str, problem: Problem, data: st.DataObject) -> None:
    """It passes with its compute order unchanged in meaning, or is refused in place."""
    program = add_messages(build(name, problem))
    rank = data.draw(st.integers(0, problem.ranks - 1))
    row = list(program.rows[rank])
    index = st.integers(0, len(row) - 1)
    row.insert(data.draw(index), row.pop(data.draw(index)))
    moved = replace(program, rows=(*program.rows[:rank], tuple(row), *program.rows[rank + 1 :]))
    refused = fault(moved)
    if refused is None:
        validate(moved.schedule())
    else:
        assert PLACE.search(refused)
