"""Simulated makespan, both bubbles and peak memory equal the papers' numbers and formulas.

F = I = W = 1 for one micro-batch on one whole rank unless said; memory in micro-batches of one
whole rank, counted conservatively.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import pytest

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule, segments_from_lengths
from longpipe.plan import equal_cost_cuts, even_cuts
from longpipe.schedules import build
from longpipe.simulate import measure, simulate

P4 = {  # name, chunks, segments: makespan, global, span, peak per rank
    ("gpipe", 1, 1): (33, 9, 9, [8] * 4),
    ("1f1b", 1, 1): (33, 9, 9, [4, 3, 2, 1]),
    ("interleaved", 2, 1): (28.5, 4.5, 4.5, [5.5, 4.5, 3.5, 2.5]),
    ("looped-bfs", 2, 1): (28.5, 4.5, 4.5, [8] * 4),
    ("seq1f1b", 1, 2): (28.5, 4.5, 4.5, [2.5, 2, 1.5, 1]),
    ("seq1f1b", 1, 4): (26.25, 2.25, 2.25, [1.75, 1.5, 1.25, 1]),
    ("seq1f1b", 1, 8): (25.125, 1.125, 1.125, [1.375, 1.25, 1.125, 1]),
    ("seq1f1b-interleaved", 2, 2): (26.25, 2.25, 2.25, [3, 2.5, 2, 1.5]),
    ("zb-h1", 1, 1): (27, 3, 3, [4] * 4),
    ("seq-zb-h1", 1, 2): (25.5, 1.5, 1.5, [2.5] * 4),
    ("seq-zb-h1", 1, 4): (24.75, 0.75, 0.75, [1.75] * 4),
    ("zb-v", 2, 1): (25.5, 1.5, 0, [4] * 4),
}
P8 = {
    ("gpipe", 1, 1): (69, 21, 21, [16] * 8),
    ("1f1b", 1, 1): (69, 21, 21, [8, 7, 6, 5, 4, 3, 2, 1]),
    ("interleaved", 2, 1): (58.5, 10.5, 10.5, [11.5, 10.5, 9.5, 8.5, 7.5, 6.5, 5.5, 4.5]),
    ("looped-bfs", 2, 1): (58.5, 10.5, 10.5, [16] * 8),
    ("seq1f1b", 1, 2): (58.5, 10.5, 10.5, [4.5, 4, 3.5, 3, 2.5, 2, 1.5, 1]),
    ("seq1f1b", 1, 4): (53.25, 5.25, 5.25, [2.75, 2.5, 2.25, 2, 1.75, 1.5, 1.25, 1]),
    ("zb-h1", 1, 1): (55, 7, 7, [8] * 8),
    ("zb-v", 2, 1): (51.5, 3.5, 0, [8] * 8),
}
SKEWED = {  # makespans with F, I, W, c = 1, 1.2, .8, .05 at p = 4, m = 8
    ("1f1b", 1, 1): "33.8",
    ("zb-h1", 1, 1): "28.8",
    ("seq1f1b", 1, 2): "29.8",
    ("interleaved", 2, 1): "29.2",
    # The paper's greedy generator, which sees the costs, gives 26.55 for a smaller span (25.7
    # against 26); this is the order for balanced costs, the same as torch's.
    ("zb-v", 2, 1): "26.45",
}
SIZES = [(2, 2), (2, 5), (3, 7), (4, 8), (5, 10), (8, 16)]
SKEW = {"forward": "1", "input_grad": "1.2", "weight_grad": "0.8"}


def numbers(schedule: Schedule, costs: UniformCosts) -> tuple[float, float, float, list[float]]:
    found = measure(simulate(schedule, costs))
    assert found.peak_memory is not None
    times = (found.makespan_s, found.global_bubble_s, found.span_bubble_s)
    return (*times, list(found.peak_memory))


@pytest.mark.parametrize(
    ("ranks", "microbatches", "key"), [(4, 8, key) for key in P4] + [(8, 16, key) for key in P8]
)
def test_the_table(ranks: int, microbatches: int, key: tuple[str, int, int]) -> None:
    name, chunks, segments = key
    problem = Problem(ranks, microbatches, chunks, segments)
    assert numbers(build(name, problem), UniformCosts(problem)) == (P4 if ranks == 4 else P8)[key]


@pytest.mark.parametrize("key", SKEWED)
def test_skewed_costs_and_latency(key: tuple[str, int, int]) -> None:
    name, chunks, segments = key
    problem = Problem(4, 8, chunks, segments)
    timeline = simulate(build(name, problem), UniformCosts(problem, comm="0.05", **SKEW))
    assert timeline.makespan_s == pytest.approx(float(SKEWED[key]), rel=1e-12)


def bubbles(name: str, problem: Problem) -> tuple[Fraction, Fraction]:
    """Global bubble with skewed costs, and the formula's: exact, in whole ticks of 1/den."""
    costs = UniformCosts(problem, **SKEW)
    found = numbers(build(name, problem), costs)[1]
    f, i, w = Fraction(1), Fraction("1.2"), Fraction("0.8")
    per_rank = f + i - w if name in ("zb-h1", "seq-zb-h1") else f + i + w
    wanted = (problem.ranks - 1) * per_rank / problem.chunks / problem.segments_max
    ticks = round(1 / costs.tick_s)
    return Fraction(round(found * ticks), ticks), wanted


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", ["gpipe", "seq1f1b", "seq-zb-h1"])
def test_bubble_of_one_chunk(name: str, segments: int, ranks: int, microbatches: int) -> None:
    if name == "seq-zb-h1" and microbatches * segments < ranks:
        pytest.skip("too few units to reach the steady state")
    found, wanted = bubbles(name, Problem(ranks, microbatches, 1, segments))
    assert found == wanted


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 8, 11])
def test_bubble_of_interleaving_for_every_number_of_segments(
    segments: int, chunks: int, ranks: int, microbatches: int
) -> None:
    problem = Problem(ranks, microbatches, chunks, segments)
    try:
        schedule = build("seq1f1b-interleaved", problem)
    except ProblemError:
        pytest.skip("refused: the last group would not be full")
    found, wanted = bubbles("seq1f1b-interleaved", problem)
    assert found == wanted
    together = -(-ranks // segments) * segments
    units = microbatches * segments * chunks
    peaks = numbers(schedule, UniformCosts(problem))[3]
    assert peaks == pytest.approx(
        [
            min((chunks - 1) * together + 2 * (ranks - rank - 1) + segments, units)
            / (chunks * segments)
            for rank in range(ranks)
        ]
    )


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 8])
def test_peaks_over_segments(segments: int, ranks: int, microbatches: int) -> None:
    problem = Problem(ranks, microbatches, 1, segments)
    units = microbatches * segments

    def peaks(name: str) -> Sequence[float]:
        return numbers(build(name, problem), UniformCosts(problem))[3]

    one_by_one = [min(ranks - rank + segments - 1, units) / segments for rank in range(ranks)]
    assert peaks("seq1f1b") == pytest.approx(one_by_one)
    assert peaks("seq-zb-h1") == pytest.approx(
        [min(ranks + segments - 1, units) / segments] * ranks
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_zb_v_has_no_span_bubble_and_even_memory(ranks: int, extra: int) -> None:
    problem = Problem(ranks, 2 * ranks - 1 + extra, chunks=2)
    makespan, bubble, span, peaks = numbers(build("zb-v", problem), UniformCosts(problem))
    assert (bubble, span, peaks) == ((ranks - 1) / 2, 0, [ranks] * ranks)
    assert makespan == 3 * problem.microbatches + (ranks - 1) / 2


def test_last_group_rule_is_what_keeps_the_bubble() -> None:
    """p = 8, m = 16, k = 3 would leave a group of 3 units: refused, with what to use instead."""
    with pytest.raises(ProblemError, match="microbatches=18, or segments=4"):
        build("seq1f1b-interleaved", Problem(8, 16, chunks=2, segments=3))


def test_costs_per_op_follow_each_micro_batchs_own_segments() -> None:
    """Two segments in one micro-batch and four in another: each sums to a whole micro-batch."""
    problem = Problem(2, 2, segments=(2, 4))
    found = measure(simulate(build("seq1f1b", problem), UniformCosts(problem)))
    assert found.busy_s == (6, 6)


# GPT 2.7B: 32 layers, hidden 2560, 32 heads of 80, vocabulary 32000; FLOPs as the paper counts.
PAIR = 32 * 32 * (4 * 80 + 3)
LINEAR = 32 * (8 * 2560 * 2560 + 4 * 2560 * 10240) + 4 * 2560 * 32000


@dataclass(frozen=True)
class PaperCosts:
    """F = linear + attention, I = linear + 2 attention, W = linear, of each segment; no memory."""

    lengths: tuple[int, ...]
    tick_s: float = 1.0
    cell_bytes: float = 1.0

    def ticks(self, op: Op) -> float:
        segment = segments_from_lengths(self.lengths)[op.seg]
        linear = LINEAR * segment.tokens
        attention = PAIR * (segment.stop**2 - segment.start**2) / 2
        parts = {Kind.F: (1, 1), Kind.I: (1, 2), Kind.W: (1, 0), Kind.B: (2, 2)}[op.kind]
        return parts[0] * linear + parts[1] * attention

    def delay(self, op: Op, source: int, destination: int) -> float:
        return 0

    holds = scratch = lambda self, op: 0


@pytest.mark.parametrize(
    ("tokens", "segments", "rates"),
    [  # even cuts and equal-cost cuts, first with full B, then in ZB-H1's order
        (32768, 2, (0.2756, 0.0987, 0.2152, 0.0787)),
        (32768, 4, (0.3058, 0.0522, 0.2365, 0.0460)),
        (32768, 8, (0.3176, 0.0277, 0.2454, 0.0279)),
        (131072, 2, (0.3513, 0.0986, 0.3330, 0.0938)),
        (131072, 4, (0.4012, 0.0521, 0.3819, 0.0577)),
        (131072, 8, (0.4207, 0.0269, 0.4006, 0.0341)),
    ],
)
def test_cuts_matter_more_than_their_number(
    tokens: int, segments: int, rates: tuple[float, ...]
) -> None:
    """Even cuts are worse than plain 1F1B (.1795); cuts of equal cost come close to the ideal."""
    problem = Problem(8, 32, segments=segments)
    equal = equal_cost_cuts(tokens, segments, linear=LINEAR, pair=PAIR, multiple=8)
    found = [
        measure(simulate(build(name, problem), PaperCosts(cuts))).global_bubble_rate
        for name in ("seq1f1b", "seq-zb-h1")
        for cuts in (even_cuts(tokens, segments), equal)
    ]
    assert found == pytest.approx(rates, abs=2e-4)
