"""A step may start, be dropped and start anew, and nothing of it is left."""

import pytest
import torch
from local_step import boundary_of, run_local
from test_gradients import GRID, check, problem_for
from toy_stages import ToyStage, make_batches, scale_of, summed_gradients

from longpipe.errors import ProblemError
from longpipe.ir import Kind, Problem, matching
from longpipe.passes import add_messages
from longpipe.runtime import Executor
from longpipe.runtime.early import early_ops
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.schedules import build, entries


def program_of(entry, ranks: int, microbatches: int):
    try:
        return add_messages(build(entry.name, problem_for(entry, ranks, microbatches, segments=4)))
    except ProblemError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize(("ranks", "microbatches"), GRID)
def test_early_ops_are_forwards_with_both_halves_of_their_messages(entry, ranks, microbatches):
    program = program_of(entry, ranks, microbatches)
    ends = early_ops(program)
    early = {op for row, end in zip(program.rows, ends, strict=True) for op in row[:end]}
    assert {op.kind for op in early} <= {Kind.F, Kind.SEND_F, Kind.RECV_F}
    assert all(op.kind is Kind.F or matching(op) in early for op in early)
    assert ends[0] > 0


@pytest.mark.parametrize(
    ("name", "chunks", "forwards"),
    [("1f1b", 1, [4, 3, 2, 1]), ("zb-h1", 1, [4, 3, 2, 1]), ("zb-v", 2, [8, 7, 7, 7])],
)
def test_most_of_the_warm_up_is_early(name, chunks, forwards):
    """The last forward of a rank's warm-up may be early, its message may not."""
    program = add_messages(build(name, Problem(4, 8, chunks)))
    found = [
        sum(op.kind is Kind.F for op in row[:end])
        for row, end in zip(program.rows, early_ops(program), strict=True)
    ]
    assert found == forwards


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("rendezvous", [True, False], ids=["rendezvous", "buffered"])
def test_dropped_steps_leave_nothing(entry, rendezvous):
    """Twice dropped, then run: the gradients of the one step that ran to its end."""
    program = program_of(entry, 4, 5)
    problem, ends = program.problem, early_ops(program)
    boundary = boundary_of(problem)
    longest = boundary.segments[0][-1].stop
    batches, others = (make_batches(5, 2, longest), make_batches(5, 2, longest)[::-1])
    fabric = LocalFabric(4, rendezvous=rendezvous, timeout_s=20)

    def work(rank: int):
        torch.set_num_threads(1)
        held = program.placement.stages_of(rank)
        modules = {index: ToyStage(index, problem.stages) for index in held}
        executor = Executor(program, rank, modules, fabric.transport(rank), boundary)
        for _ in range(2):
            executor.begin(others, 3.0, ends[rank])
            executor.drop()
        executor.begin(batches, scale_of(batches), ends[rank])
        return executor.finish().loss_sum, modules

    found = run_ranks(fabric, work)
    gradients = summed_gradients([module for _, held in found for module in held.values()])
    loss = next(loss for loss, _ in found if loss is not None)
    check(loss, gradients, problem)
    same_loss, same, _ = run_local(program)
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(gradients[name], same[name]) for name in same)
