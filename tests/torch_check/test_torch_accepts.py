"""Torch's own validator, lowering and simulator accept every schedule that we export.

The one place that touches torch's private API; it is skipped where that has moved.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import Kind, Problem, Schedule, from_torch_csv, to_torch_csv
from longpipe.schedules import build, entries

pytest.importorskip("torch")

NAMES = [entry.name for entry in entries()]


@pytest.fixture(scope="session")
def theirs() -> SimpleNamespace:
    """The private functions of torch.distributed.pipelining that these tests ask."""
    from torch.distributed.pipelining import schedules

    wanted = ("_Action", "_validate_schedule", "_add_send_recv", "_simulate_comms_compute")
    gone = [name for name in wanted if not hasattr(schedules, name)]
    if gone:
        pytest.skip(f"this torch has no {', '.join(gone)} in torch.distributed.pipelining")
    return SimpleNamespace(**{name.lstrip("_"): getattr(schedules, name) for name in wanted})


def simulated_steps(theirs: SimpleNamespace, schedule: Schedule) -> int:
    """Steps of torch's simulation of what we export; asserts that torch accepts it."""
    problem = schedule.problem
    rows = {}
    for rank, line in enumerate(to_torch_csv(schedule).splitlines()):
        cells = line.split(",")
        rows[rank] = [theirs.Action.from_str(cell) for cell in cells]
        assert [repr(action) for action in rows[rank]] == cells
    owners = theirs.validate_schedule(
        rows, problem.ranks, problem.stages, problem.microbatches * problem.segments_max
    )
    assert owners == {stage: schedule.placement(stage, 0) for stage in range(problem.stages)}
    sent = theirs.add_send_recv(rows, owners.get, problem.stages)
    for rank, actions in sent.items():  # its simulation knows no pairs
        sent[rank] = [part for action in actions for part in action.sub_actions or (action,)]
    simulated = theirs.simulate_comms_compute(sent, owners.get, problem.stages)
    return max(map(len, simulated.values()))


def exported(name: str) -> Iterator[Schedule]:
    for ranks in (1, 2, 4, 8):
        for microbatches in sorted({1, ranks, 2 * ranks, 2 * ranks + 1}):
            for chunks in (1, 2, 3):
                for segments in (1, 3, 4):
                    try:
                        yield build(name, Problem(ranks, microbatches, chunks, segments))
                    except ProblemError:
                        continue


@pytest.mark.parametrize("name", NAMES)
def test_torch_accepts_every_schedule(theirs: SimpleNamespace, name: str) -> None:
    schedules = list(exported(name))
    assert schedules
    for schedule in schedules:
        if schedule.placement.by_mb[1:]:
            with pytest.raises(ScheduleError, match="placement here differs by micro-batch"):
                to_torch_csv(schedule)
            continue
        assert simulated_steps(theirs, schedule) >= max(map(len, schedule.rows))


@pytest.mark.parametrize(
    ("name", "problem", "steps"),
    [
        ("seq1f1b", Problem(2, 2, segments=4), 37),
        ("seq1f1b", Problem(4, 2, segments=4), 58),
        ("seq1f1b", Problem(4, 8, segments=4), 226),
        ("seq1f1b", Problem(8, 4, segments=8), 238),
    ],
)
def test_simulated_steps(theirs: SimpleNamespace, name: str, problem: Problem, steps: int) -> None:
    """Counts that torch's simulation gave for the published orders."""
    assert simulated_steps(theirs, build(name, problem)) == steps


def test_simulated_steps_of_a_split_backward(theirs: SimpleNamespace) -> None:
    """Each B as I and W side by side: one step more for each of the eight units."""
    whole = build("seq1f1b", Problem(4, 2, segments=4))
    parts = {Kind.B: (Kind.I, Kind.W)}
    rows = tuple(
        tuple(op._replace(kind=kind) for op in row for kind in parts.get(op.kind, (op.kind,)))
        for row in whole.rows
    )
    assert simulated_steps(theirs, replace(whole, rows=rows)) == 66


def test_torch_overlap_pairs_come_in(theirs: SimpleNamespace) -> None:
    """What torch prints for a pair is what we read, and write."""
    cell = "(0F1;0B0)OVERLAP_F_B"
    assert repr(theirs.Action.from_str(cell)) == cell
    schedule = from_torch_csv(f"0F0,{cell},0B1")
    assert [str(op) for op in schedule.rows[0]] == ["0F0", "0F1", "0B0", "0B1"]
    assert [tuple(map(str, pair)) for pair in schedule.pairs] == [("0F1", "0B0")]
    assert to_torch_csv(schedule) == f"0F0,{cell},0B1\n"
