"""Chronos-Pipe and Chronos-Recomp: offsets, lifetimes, bubble, memory and makespans of the page.

Times in ops of one chunk, f = 1 and b = 2, unless said: twice the simulator's unit for 2 chunks.
"""

from fractions import Fraction
from itertools import pairwise

import pytest

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule
from longpipe.passes import recompute, stages_named
from longpipe.schedules import build
from longpipe.schedules.chronos import block
from longpipe.simulate import Metrics, measure, simulate
from longpipe.validate import validate


def chronos(ranks: int, chunks: int = 2) -> Schedule:
    return build("chronos", Problem(ranks, 4 * ranks, chunks))


def numbers(schedule: Schedule) -> Metrics:
    return measure(simulate(schedule, UniformCosts(schedule.problem)))


def shares(schedule: Schedule) -> list[Fraction]:
    """Peak of each rank over that of 1F1B's first rank, p micro-batches."""
    peaks = numbers(schedule).peak_memory
    assert peaks is not None
    problem = schedule.problem
    return [Fraction(round(x * problem.chunks), problem.chunks * problem.ranks) for x in peaks]


@pytest.mark.parametrize(
    ("ranks", "offsets"),
    [(4, ((0, 9), (22, 13))), (8, ((0, 9), (38, 17))), (16, ((0, 21), (70, 37)))],
)
def test_offsets(ranks: int, offsets: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert block(ranks, 2) == offsets


@pytest.mark.parametrize("chunks", [2, 3, 4, 5])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8, 9, 16])
def test_no_two_ops_of_the_block_meet_and_none_comes_too_early(ranks: int, chunks: int) -> None:
    forward, backward = block(ranks, chunks)
    for before, after in pairwise(forward):
        assert after >= before + ranks
    assert backward[-1] >= forward[-1] + ranks
    for after, before in pairwise(backward):
        assert after >= before + 2 * ranks
    period = 3 * chunks
    for rank in range(ranks):
        taken = [(start + rank) % period for start in forward]
        for start in backward:
            taken += [(start + 2 * (ranks - 1 - rank) + tick) % period for tick in (0, 1)]
        assert sorted(taken) == list(range(period))


@pytest.mark.parametrize("ranks", range(2, 17, 2))
def test_memory_for_even_ranks(ranks: int) -> None:
    """The shallow chunk has p+1 in flight and the deep one p/2."""
    assert shares(chronos(ranks))[0] == Fraction(3, 4) + Fraction(1, 2 * ranks)
    again = shares(recompute(chronos(ranks), range(ranks)))[0]
    assert again == Fraction(1, 4) + Fraction(1, 2 * ranks)


@pytest.mark.parametrize(("ranks", "share"), [(3, "0.833"), (5, "0.9"), (9, "0.778")])
def test_memory_for_odd_ranks(ranks: int, share: str) -> None:
    assert float(shares(chronos(ranks))[0]) == pytest.approx(float(share), abs=5e-4)


@pytest.mark.parametrize(
    ("chunks", "ranks"), [(3, 3), (3, 6), (3, 12), (4, 16), (5, 5), (5, 10), (5, 30)]
)
def test_memory_with_more_chunks(chunks: int, ranks: int) -> None:
    """(v+1)/(2v), but for the slots that hops are rounded up to: exact where they fit."""
    law = Fraction(chunks + 1, 2 * chunks)
    share = shares(chronos(ranks, chunks))[0]
    if chunks == 3:
        assert share == law
    assert law <= share <= law + Fraction(3, 2 * ranks)


@pytest.mark.parametrize("ranks", [4, 6, 8, 12])
def test_less_memory_than_others(ranks: int) -> None:
    """Chronos < 1F1B < interleaved for p > 2."""
    interleaved = shares(build("interleaved", Problem(ranks, 4 * ranks, 2)))
    assert max(shares(chronos(ranks))) < 1 < max(interleaved)


@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("ranks", range(2, 17))
def test_bubble_is_that_of_1f1b(ranks: int, chunks: int) -> None:
    assert numbers(chronos(ranks, chunks)).global_bubble_s == 3 * (ranks - 1)


class Inside(UniformCosts):
    """Recompute fused into the backward: R takes no time of its own, the B that it belongs to
    takes `extra` of a full forward more, and cannot begin before its gradient has come."""

    def __init__(self, schedule: Schedule, extra: Fraction) -> None:
        super().__init__(schedule.problem, recompute=extra)
        self._redone = {op for _, _, op in schedule if op.kind is Kind.R}

    def ticks(self, op: Op) -> int:
        if op.kind is Kind.R:
            return 0
        again = op._replace(kind=Kind.R)
        more = super().ticks(again) if op.kind is Kind.B and again in self._redone else 0
        return super().ticks(op) + more


def test_recompute_beside_the_wait_beats_recompute_within_the_backward() -> None:
    """p = 8, m = 32: all makespans of the page."""
    plain = chronos(8)
    again = recompute(plain, range(8))
    one = build("1f1b", Problem(8, 32))
    ones = recompute(one)

    def inside(schedule: Schedule, extra: Fraction = Fraction(1)) -> float:
        return 2 * simulate(schedule, Inside(schedule, extra)).makespan_s

    assert 2 * numbers(plain).makespan_s == 234
    assert 2 * numbers(again).makespan_s == 266
    assert inside(again) == 303
    assert inside(ones, Fraction(1, 2)) == 273
    assert inside(ones) == 312
    assert 2 * max(numbers(again).busy_s) == 224


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("segments", [2, 3, 4, 8])
def test_over_segments(ranks: int, segments: int) -> None:
    """k-1 more units on each chunk, and at most one slot of bubble for each."""
    schedule = build("seq-chronos", Problem(ranks, 2 * ranks, 2, segments))
    validate(schedule)
    units = chronos(ranks)
    found, plain = numbers(schedule), numbers(units)
    for more, one in zip(found.peak_memory, plain.peak_memory, strict=True):
        assert more == pytest.approx((one + segments - 1) / segments)
    least = Fraction(3 * (ranks - 1), segments)
    slack = Fraction(3 * (segments - 1), 2 * segments)
    assert least - 1e-9 <= found.global_bubble_s <= least + slack + 1e-9


def test_segments_may_differ_and_chunks_end_at_eight() -> None:
    validate(build("seq-chronos", Problem(4, 5, 2, segments=(3, 1, 4, 2, 2))))
    with pytest.raises(ProblemError, match="chunks=9: use chunks=2"):
        build("chronos", Problem(2, 4, chunks=9))


def test_chunk_0_alone_is_chronos_recomp() -> None:
    schedule = chronos(4)
    again = recompute(schedule, stages_named("chunk:0", schedule.placement))
    redone = {op.stage for _, _, op in again if op.kind is Kind.R}
    assert redone == {0, 1, 2, 3}
