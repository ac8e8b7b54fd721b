"""Recompute under every schedule: bit for bit the gradients and loss of the run without it."""

import pytest
import torch
from local_step import batches_of, boundary_of, run_local
from toy_stages import ToyStage, scale_of

from longpipe.errors import ProblemError, RunError
from longpipe.ir import COMPUTE, Problem, from_text
from longpipe.passes import add_messages, recompute
from longpipe.runtime import Executor
from longpipe.runtime.local import LocalFabric
from longpipe.schedules import build, entries


def schedule_of(entry, ranks: int, microbatches: int, segments):
    chunks = 2 if entry.chunks is None else entry.chunks
    problem = Problem(ranks, microbatches, chunks, segments if entry.segments else 1)
    try:
        return build(entry.name, problem)
    except ProblemError as error:
        pytest.skip(str(error))


def same(once, twice) -> None:
    assert torch.equal(once[0], twice[0])
    for name, gradient in once[1].items():
        assert torch.equal(twice[1][name], gradient), name


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 2), (4, 4), (4, 2)])
@pytest.mark.parametrize("part", ["all stages", "the first of each rank"])
def test_bit_identical(entry, ranks, microbatches, part):
    schedule = schedule_of(entry, ranks, microbatches, segments=4)
    once = run_local(add_messages(schedule))
    stages = None if part == "all stages" else range(ranks)
    program = add_messages(recompute(schedule, stages))
    twice = run_local(program)
    same(once, twice)
    for row, measured in zip(program.rows, twice[2], strict=True):
        assert [op for op in row if op.kind in COMPUTE] == [event.op for event in measured]


def test_different_segments_and_several_steps():
    schedule = build("seq1f1b", Problem(2, 3, segments=(3, 1, 4)))
    once = run_local(add_messages(schedule), steps=2)
    same(once, run_local(add_messages(recompute(schedule)), steps=2))


def test_an_r_of_some_units_at_other_places():
    """A row written by hand: R of one micro-batch alone, and long before its backward."""
    header = "# ir 1 | mine ranks=1 microbatches=2 segments=2\n"
    plain = from_text(header + "r0: 0F0 0F0.1 0F1 0F1.1 0B0.1 0B0 0B1.1 0B1")
    some = from_text(header + "r0: 0F0 0F0.1 0R0 0F1 0F1.1 0R1.1 0B0.1 0B0 0R1 0B1.1 0B1")
    same(run_local(add_messages(plain)), run_local(add_messages(some)))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("0R0 0F0 0B0", "R of segment 0 of micro-batch 0 without a forward"),
        ("0F0 0R0 0R0 0B0", "for the second time"),
        ("0F0 0B0 0R0", "without a forward before it"),
        ("0F0 0R0", "forwards without a backward"),
    ],
)
def test_faults(row, match):
    program = from_text(f"# ir 1 | bad ranks=1 microbatches=1 level=program\nr0: {row}")
    with pytest.raises(RunError, match=match):
        run_local(program)


def test_a_light_forward_left_over():
    """What `drop` and a new start must forget, and the end of a step must not."""
    problem = Problem(1, 1)
    text = "# ir 1 | left ranks=1 microbatches=1 level=program\nr0: 0F0 0R0 0B0"
    executor = Executor(
        from_text(text), 0, {0: ToyStage(0, 1)}, LocalFabric(1).transport(0), boundary_of(problem)
    )
    batches = batches_of(problem)
    executor.begin(batches, scale_of(batches), early=1)
    executor.drop()
    assert executor.run_step(batches, scale_of(batches)).loss_sum > 0
    stage = executor._stages[0]
    stage.start(batches, 1.0)
    stage.light_forward(0, 0, None)
    with pytest.raises(RunError, match="forwards without their R"):
        stage.finish()
