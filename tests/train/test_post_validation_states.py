"""What each rank does, and when, as the rows of a step go forth and back."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.errors import RunError
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.train.post_validation import PostValidation, Undo
from longpipe.train.update import Outcome, Ran, Row, Update

torch.set_num_threads(1)
RANKS = 3
MAX_NORM = 10.0
FINE, LARGE, NAN = 4.0, 1e4, math.nan


class ToyUpdate(Update):
    """One weight; a step subtracts lr times the factor that clipping leaves of a gradient of 1."""

    def __init__(self) -> None:
        self.max_norm = MAX_NORM
        self.weight = torch.ones(1, dtype=torch.float64)
        self.refreshed = 0
        self.refresh = self.count_refresh
        self.norms: list[float] = []

    def step(self, ran: Ran, factor: float = 1.0) -> None:
        self.weight -= ran.lr * factor

    def apply(self, outcome: Outcome) -> None:
        self.norms.append(outcome.norm)
        if outcome.finite:
            self.step(outcome.ran, 1.0 if outcome.plain else self.max_norm / outcome.norm)

    def count_refresh(self) -> None:
        self.refreshed += 1


class Rank:
    """One rank's end of the exchange."""

    def __init__(self, fabric: LocalFabric, rank: int, after: int = 0) -> None:
        self.rank = rank
        self.update = ToyUpdate()
        self.post = PostValidation(
            self.update, Undo([self.update.weight]), fabric.transport(rank), rank, fabric.ranks,
            after=after, waiting=lambda _: nullcontext(),
        )  # fmt: skip

    @property
    def weight(self) -> float:
        return float(self.update.weight)

    def end(self, step: int, square: float, *, settle: bool = False, loss: float = 1.0):
        """End a step; the last rank holds the loss."""
        last = self.rank + 1 == RANKS
        row = Row(square, loss if last else 0.0, 10.0 * self.rank, 0.0)
        return self.post.end(Ran(step, 0.5, 0.1 * step), row, settle=settle)

    def settle(self) -> Outcome:
        """As the next step does; returns the outcome."""
        outcome = self.post.hear()
        self.stood = self.post.stands(outcome)
        self.post.settle(outcome)
        return outcome


def ranks(after: int = 0) -> list[Rank]:
    """They run one after another in this thread: a wait for a later one would time out."""
    fabric = LocalFabric(RANKS, timeout_s=0.2)
    return [Rank(fabric, rank, after) for rank in range(RANKS)]


def ended(squares: list[float], loss: float = 1.0) -> list[Rank]:
    """Ranks after the end of step 1; each was the first to end it of those not yet done."""
    found = ranks()
    for rank, square in zip(found, squares, strict=True):
        assert rank.end(1, square, loss=loss) is None
        assert rank.post.pending is not None
    return found


def test_a_rank_steps_before_those_after_it_have_ended() -> None:
    first = ranks()[0]
    first.end(1, FINE)
    assert first.weight == 0.9


def test_nobody_steps_before_the_rank_before_has_told() -> None:
    found = ranks()
    with pytest.raises(RunError, match="from rank 0 to rank 1 did not get through"):
        found[1].end(1, FINE)


def test_plain_steps_stand() -> None:
    found = ended([FINE, FINE, FINE])
    assert [rank.weight for rank in found] == [0.9] * RANKS
    for rank in reversed(found):
        outcome = rank.settle()
        assert (outcome.norm, outcome.loss, outcome.peak_bytes) == (math.sqrt(12), 0.5, 20)
        assert rank.stood
        assert rank.post.pending is None
    assert [rank.weight for rank in found] == [0.9] * RANKS
    assert [rank.update.norms for rank in found] == [[]] * RANKS, "nothing is applied again"


@pytest.mark.parametrize("bad", [LARGE, NAN, math.inf])
@pytest.mark.parametrize("culprit", range(RANKS))
def test_ranks_before_the_culprit_take_back_the_others_have_not_stepped(
    culprit: int, bad: float
) -> None:
    found = ended([bad if rank == culprit else FINE for rank in range(RANKS)])
    assert [rank.weight for rank in found] == [0.9] * culprit + [1.0] * (RANKS - culprit)
    right = 1.0
    if math.isfinite(bad):
        right -= 0.1 * (MAX_NORM / math.sqrt(math.fsum([bad, FINE, FINE])))
    for rank in reversed(found):
        rank.settle()
        assert not rank.stood, "early forwards are dropped on every rank"
        assert rank.weight == right
        assert rank.update.refreshed == (rank.rank < culprit)


def test_a_loss_that_is_not_finite_is_taken_back_too() -> None:
    found = ended([FINE] * RANKS, loss=math.inf)
    assert [rank.weight for rank in found] == [0.9, 0.9, 1.0]
    assert [rank.settle().finite for rank in reversed(found)] == [False] * RANKS
    assert [rank.weight for rank in found] == [1.0] * RANKS


Steps = st.lists(
    st.tuples(st.tuples(*[st.sampled_from([FINE, FINE, 0.1, LARGE, NAN])] * RANKS), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(steps=Steps, after=st.integers(0, 3))
def test_any_run_ends_as_one_that_waits(steps, after: int) -> None:
    """Steps are settled at once, or over the next one, and at the end all are."""
    fabric = LocalFabric(RANKS, rendezvous=False, timeout_s=10)

    def work(number: int) -> tuple[float, list[float]]:
        rank, norms = Rank(fabric, number, after), []
        for step, (squares, at_once) in enumerate(steps, start=1):
            if rank.post.pending is not None:
                norms.append(rank.settle().norm)
            settle = at_once or step == len(steps)
            outcome = rank.end(step, squares[number], settle=settle)
            norms += [] if outcome is None else [outcome.norm]
            assert not settle or outcome is not None
        return rank.weight, norms

    expected, norms = ToyUpdate(), []
    for step, (squares, _) in enumerate(steps, start=1):
        rows = [Row(square, 0.0, 0.0, 0.0) for square in squares]
        outcome = Outcome.of(Ran(step, 0.5, 0.1 * step), rows, MAX_NORM)
        expected.apply(outcome)
        norms.append(outcome.norm)
    for weight, found in run_ranks(fabric, work):
        assert weight == float(expected.weight)
        assert list(map(repr, found)) == list(map(repr, norms))
