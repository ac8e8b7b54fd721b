"""Faults put into a Program or a stage on purpose: each is caught, by the validator and in a run.

What only changes numbers is caught by the gradient check that all schedules are tested with.
"""

from dataclasses import replace

import pytest
import toy_stages
from local_step import run_local
from test_gradients import check

from longpipe.errors import RunError, ScheduleError
from longpipe.ir import Kind, Op, Problem, Program
from longpipe.passes import add_messages
from longpipe.schedules import build
from longpipe.validate import validate

PROBLEM = Problem(2, 3, 1, segments=3)


def program(name: str = "seq-zb-h1") -> Program:
    return add_messages(build(name, PROBLEM))


def with_row(program: Program, rank: int, row) -> Program:
    rows = list(program.rows)
    rows[rank] = tuple(row)
    return replace(program, rows=tuple(rows))


def swap(program: Program, rank: int, first: Op, second: Op) -> Program:
    """The two ops exchanged in the row of `rank`."""
    other = {first: second, second: first}
    return with_row(program, rank, (other.get(op, op) for op in program.rows[rank]))


def refused(mutant: Program, match: str) -> None:
    """The validator rejects it, and a run of it raises too."""
    with pytest.raises(ScheduleError):
        validate(mutant)
    with pytest.raises(RunError, match=match):
        run_local(mutant, rendezvous=False, timeout_s=2)


@pytest.mark.parametrize("name", ["seq1f1b", "seq-zb-h1"])
def test_the_programs_without_faults_pass(name):
    validate(program(name))
    loss, gradients, _ = run_local(program(name))
    check(loss, gradients, PROBLEM)


def test_swapped_backward_segments():
    last, before = Op(Kind.I, 1, 0, 2), Op(Kind.I, 1, 0, 1)
    mutant = swap(program(), 1, last, before)
    refused(mutant, "backward of segment 1")


def test_swapped_forward_segments():
    mutant = swap(program(), 0, Op(Kind.F, 0, 0, 0), Op(Kind.F, 0, 0, 1))
    with pytest.raises(ScheduleError):
        validate(mutant)
    with pytest.raises(RunError):
        run_local(mutant, rendezvous=False, timeout_s=2)


def test_a_weight_gradient_run_twice():
    row = program().rows[0]
    doubled = [copy for op in row for copy in ([op, op] if op == Op(Kind.W, 0, 1, 1) else [op])]
    refused(with_row(program(), 0, doubled), "for the second time")


def test_a_weight_gradient_left_out():
    row = [op for op in program().rows[0] if op != Op(Kind.W, 0, 1, 1)]
    refused(with_row(program(), 0, row), r"I without its W: \[\(1, 1\)\]")


def test_a_backward_left_out():
    dropped = (Op(Kind.I, 0, 2, 0), Op(Kind.W, 0, 2, 0))
    row = [op for op in program().rows[0] if op not in dropped]
    refused(with_row(program(), 0, row), "no op took")


def test_swapped_receives_of_unequal_shape():
    mutant = swap(program(), 1, Op(Kind.RECV_F, 1, 0, 0), Op(Kind.RECV_F, 1, 0, 1))
    with pytest.raises(ScheduleError):
        validate(mutant)
    with pytest.raises(RunError):
        run_local(mutant, rendezvous=False, timeout_s=2)


def test_swapped_sends_of_equal_shape_change_the_numbers():
    """Nothing raises in a run: only the validator, or a check of the gradients, can tell."""
    whole = Problem(2, 3)
    good = add_messages(build("1f1b", whole))
    first, second = Op(Kind.SEND_B, 1, 0), Op(Kind.SEND_B, 1, 1)
    row = [op for op in good.rows[1] if op != first]
    row.insert(row.index(second) + 1, first)
    mutant = with_row(good, 1, row)
    with pytest.raises(ScheduleError):
        validate(mutant)
    loss, gradients, _ = run_local(mutant, rendezvous=False)
    with pytest.raises(AssertionError, match="is off by"):
        check(loss, gradients, whole)


class DropsGradientOfThePast(toy_stages.ToyStage):
    """Its backward forgets what later segments owe to earlier ones (dKV)."""

    def open(self, batch):
        state = super().open(batch)
        state.sums = [Forgetful()]
        return state


class Forgetful(toy_stages.RunningSum):
    @property
    def d_past(self):
        return None

    @d_past.setter
    def d_past(self, value):
        pass


class DoublesWeightGradients(toy_stages.ToyStage):
    """Each deferred product is added twice."""

    def __init__(self, *args):
        super().__init__(*args)
        run = self.weight_queue.run

        def twice(key):
            self.weight_queue._items[key] *= 2
            run(key)

        self.weight_queue.run = twice


class ForgetsWeightGradients(toy_stages.ToyStage):
    """Deferred products of one unit are lost."""

    def __init__(self, *args):
        super().__init__(*args)
        run = self.weight_queue.run

        def lossy(key):
            if key == (1, 1):
                self.weight_queue._items[key] = []
            run(key)

        self.weight_queue.run = lossy


@pytest.mark.parametrize(
    "stage", [DropsGradientOfThePast, DoublesWeightGradients, ForgetsWeightGradients]
)
def test_a_faulty_stage_fails_the_gradient_check(stage):
    loss, gradients, _ = run_local(program(), stage=stage)
    with pytest.raises(AssertionError, match="is off by"):
        check(loss, gradients, PROBLEM)
