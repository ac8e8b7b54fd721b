"""SlimPipe (arXiv:2504.14519): units in flight, bubble, and what unequal segments cost."""

import re
from fractions import Fraction

import pytest

from longpipe import Problem, ProblemError, UniformCosts, build, measure, simulate, validate
from longpipe.ir import EqualCosts, Kind, Op

SIZES = [(p, k, v) for p in (2, 4, 8) for k in range(p, 4 * p + 1) for v in (1, 2, 4)]


def measured(name: str, problem: Problem):
    return measure(simulate(build(name, problem), UniformCosts(problem)))


@pytest.mark.parametrize(("p", "k", "v"), SIZES)
def test_in_flight_peak_and_bubble_are_the_papers(p: int, k: int, v: int) -> None:
    """k v + 2(p-1-r) units, M_a/p (1 + 2(p-1-r)/(k v)), and (p-1)(f+b) of one unit on all ranks."""
    problem = Problem(p, 4, v, k)
    schedule = build("slimpipe", problem)
    validate(schedule)
    for rank, row in enumerate(schedule.rows):
        live = peak = 0
        for op in row:
            live += 1 if op.kind is Kind.F else -1
            peak = max(peak, live)
        assert peak == k * v + 2 * (p - 1 - rank)
    found = measured("slimpipe", problem)
    assert found.peak_memory is not None
    for rank, peak in enumerate(found.peak_memory):  # in M_a / p, a micro-batch on one rank
        assert peak == pytest.approx(1 + 2 * (p - 1 - rank) / (k * v), rel=1e-12)
    unit = Fraction(3, k * v)  # f + b
    assert found.makespan_s == pytest.approx(4 * 3 + float((p - 1) * unit), rel=1e-12)
    for idle in found.idle:
        assert idle.total_s == pytest.approx(float((p - 1) * unit), rel=1e-9)
    assert found.global_bubble_rate == pytest.approx((p - 1) / (4 * k * v + p - 1), rel=1e-9)


@pytest.mark.parametrize(("p", "k"), [(2, 2), (4, 4), (4, 6), (4, 16), (8, 8), (8, 32)])
def test_beside_seq1f1b(p: int, k: int) -> None:
    """Rank r holds p-1-r units more, at the same bubble."""
    problem = Problem(p, 4, 1, k)
    slim, plain = measured("slimpipe", problem), measured("seq1f1b", problem)
    assert slim.makespan_s == plain.makespan_s
    assert slim.global_bubble_s == plain.global_bubble_s
    assert slim.peak_memory is not None
    assert plain.peak_memory is not None
    more = [round((a - b) * k) for a, b in zip(slim.peak_memory, plain.peak_memory, strict=True)]
    assert more == [p - 1 - rank for rank in range(p)]


def test_groups_of_the_smallest_divisor_that_holds_p_segments() -> None:
    """p = 2, k = 6, v = 2: g = 2; the backward of a micro-batch is its forward reversed."""
    row = build("slimpipe", Problem(2, 2, chunks=2, segments=6)).rows[1]
    forward = [(op.stage, op.seg) for op in row if op.kind is Kind.F and op.mb == 0]
    backward = [(op.stage, op.seg) for op in row if op.kind is Kind.B and op.mb == 0]
    assert forward == [
        (stage, seg) for first in (0, 2, 4) for stage in (1, 3) for seg in (first, first + 1)
    ]
    assert backward == forward[::-1]
    five = build("slimpipe", Problem(2, 2, chunks=2, segments=5)).rows[1]  # g = 5
    assert [op.stage for op in five if op.kind is Kind.F and op.mb == 0] == [1] * 5 + [3] * 5


@pytest.mark.parametrize(("p", "k"), [(2, 2), (2, 5), (4, 8), (4, 16), (8, 9), (8, 32)])
def test_imbalance_in_lock_step(p: int, k: int) -> None:
    """Attention units lost per micro-batch where ranks march together: (p-1)(2k-p)/2.

    In lock step rank i works on what rank 0 had i ticks before, and a tick takes as long as the
    segment that attends to most.
    """
    rows = build("slimpipe", Problem(p, 3, 1, k)).rows
    units = [[op.seg for op in row if op.kind is Kind.F] for row in rows]
    ticks = range(k, 2 * k)  # those in which rank 0 runs the second micro-batch
    worked = [[units[rank][tick - rank] for rank in range(p)] for tick in ticks]
    lost = sum(max(segs) - Fraction(sum(segs), p) for segs in worked)
    assert lost == Fraction((p - 1) * (2 * k - p), 2)


class CausalCosts(EqualCosts):
    """Segment j: 1 for its linear layers, j + 1/2 for attention to the j before it and itself."""

    def ticks(self, op: Op) -> float:  # type: ignore[override]
        return (1.5 + op.seg) * super().ticks(op)


@pytest.mark.parametrize(
    ("p", "k", "unbalanced", "balanced"),
    [(4, 8, 0.20, 0.086), (4, 16, 0.18, 0.045), (8, 32, 0.21, 0.052)],
)
def test_what_the_exchange_of_attention_could_gain(
    p: int, k: int, unbalanced: float, balanced: float
) -> None:
    """Bubble rates run as soon as possible, and where all segments cost the same; m = 4."""
    schedule = build("slimpipe", Problem(p, 4, 1, k))
    found = measure(simulate(schedule, CausalCosts())).global_bubble_rate
    assert found == pytest.approx(unbalanced, abs=0.005)
    even = measure(simulate(schedule, EqualCosts())).global_bubble_rate
    assert even == pytest.approx(balanced, abs=0.0005)


@pytest.mark.parametrize(("p", "k", "seq1f1b"), [(4, 8, 0.33), (8, 32, 0.27)])
def test_the_units_more_than_seq1f1b_are_slack(p: int, k: int, seq1f1b: float) -> None:
    """Where late segments are dearer, Seq1F1B's global bubble is larger (SlimPipe's: above)."""
    found = measure(simulate(build("seq1f1b", Problem(p, 4, 1, k)), CausalCosts()))
    assert found.global_bubble_rate == pytest.approx(seq1f1b, abs=0.005)


@pytest.mark.parametrize(
    ("problem", "fault"),
    [
        (Problem(4, 4, 1, segments=3), "at least as many segments as ranks=4"),
        (Problem(4, 1, 2, segments=8), "keeps 22 units .* microbatches=1 have only 16"),
        (Problem(4, 2, 1, segments=(4, 5)), "same number of segments in each micro-batch"),
    ],
)
def test_a_refusal_shows_the_way_out(problem: Problem, fault: str) -> None:
    with pytest.raises(ProblemError, match=fault):
        build("slimpipe", problem)


def test_what_a_refusal_advises_leads_to_a_schedule(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        sizes = {"microbatches": problem.microbatches, "segments": problem.segments}
        while (refused := refusal(problem, sizes)) is not None:
            advice = re.search(r"use (\w+)=(\d+), or (\S+)", refused)
            assert advice, refused
            build(advice[3].rstrip(","), problem)
            field, number = advice[1], int(advice[2])
            assert sizes[field] < number, "advice that goes in circles"
            sizes[field] = number


def refusal(problem: Problem, sizes: dict[str, int]) -> str | None:
    try:
        build("slimpipe", Problem(problem.ranks, chunks=problem.chunks, **sizes))
    except ProblemError as error:
        return str(error)
    return None
