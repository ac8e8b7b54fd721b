"""Every schedule gives the unsplit model's loss and gradients, over the in-process transport."""

import pytest
import torch
from local_step import batches_of, run_local
from toy_stages import reference

from longpipe.errors import ProblemError
from longpipe.ir import COMPUTE, Problem, Program
from longpipe.passes import add_messages
from longpipe.schedules import build, entries, entry, example

GRID = [(2, 1), (2, 3), (4, 2), (4, 5), (8, 3)]


def problem_for(entry, ranks: int, microbatches: int, segments) -> Problem:
    chunks = 2 if entry.chunks is None else entry.chunks
    return Problem(ranks, microbatches, chunks, segments if entry.segments else 1)


def check(loss, gradients, problem: Problem) -> None:
    """Equal to the unsplit model's to 1e-10, every parameter."""
    want_loss, want = reference(problem.stages, batches_of(problem))
    torch.testing.assert_close(loss, want_loss, rtol=1e-10, atol=0)
    assert gradients.keys() == want.keys()
    for name, gradient in want.items():
        error = (gradients[name] - gradient).abs().max() / gradient.abs().max()
        assert error < 1e-10, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("which", entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize(("ranks", "microbatches"), GRID)
@pytest.mark.parametrize("rendezvous", [True, False], ids=["rendezvous", "buffered"])
def test_gradients_are_those_of_the_unsplit_model(which, ranks, microbatches, rendezvous):
    problem = problem_for(which, ranks, microbatches, segments=4)
    try:
        program = add_messages(build(which.name, problem))
    except ProblemError as error:
        pytest.skip(str(error))
    run_and_check(program, rendezvous)


@pytest.mark.parametrize("name", [entry.name for entry in entries() if "dualpipe" in entry.name])
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("rendezvous", [True, False], ids=["rendezvous", "buffered"])
def test_also_where_more_micro_batches_are_needed(name, ranks, rendezvous):
    problem = example(entry(name), ranks, segments=4 if entry(name).segments else 1)
    run_and_check(add_messages(build(name, problem)), rendezvous)


def run_and_check(program: Program, rendezvous: bool) -> None:
    """Loss, gradients and the order of the ops that really ran."""
    loss, gradients, events = run_local(program, rendezvous=rendezvous)
    check(loss, gradients, program.problem)
    for row, measured in zip(program.rows, events, strict=True):
        assert [op for op in row if op.kind in COMPUTE] == [event.op for event in measured]
        assert all(event.start_s <= event.end_s for event in measured)


@pytest.mark.parametrize("name", [e.name for e in entries() if e.segments])
def test_micro_batches_may_have_different_segments(name):
    chunks = entry(name).chunks or 2
    problem = Problem(2, 3, chunks, segments=(3, 1, 4))
    try:
        program = add_messages(build(name, problem))
    except ProblemError as error:
        pytest.skip(str(error))
    loss, gradients, _ = run_local(program)
    check(loss, gradients, problem)


def test_gradients_add_up_over_steps():
    problem = Problem(2, 2, 1, segments=3)
    program = add_messages(build("seq1f1b", problem))
    loss, once, _ = run_local(program)
    again, twice, _ = run_local(program, steps=2)
    assert torch.equal(loss, again)
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient)
