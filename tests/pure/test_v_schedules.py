"""V-schedules from building blocks: the papers' numbers, exactly and at other sizes.

arXiv:2405.15362 and arXiv:2401.10241. Chunk cells: F = I = W = 1 for one micro-batch on one of the
two chunks of a rank, so half of what `UniformCosts` counts; over k segments one k-th of that.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import Kind, Problem, Schedule, loop, v
from longpipe.schedules import build, one_f_one_b_v, v_half, v_min
from longpipe.schedules._block import Block, arrange, order
from longpipe.schedules._block_repeat import streams
from longpipe.schedules._streams import spell
from longpipe.schedules._v_blocks import blocks
from longpipe.simulate import Metrics, measure, simulate
from longpipe.validate import validate

BLOCKS: dict[str, Callable[[int], Block]] = {
    "v-min": v_min.block,
    "v-half": v_half.block,
    "1f1b-v": one_f_one_b_v.block,
}
PEAK: dict[str, Callable[[int], int]] = {  # in chunk units
    "v-min": lambda p: 2 * ((p + 1) // 3 + 1),
    "v-half": lambda p: 2 * (p // 2 + 1),
    "1f1b-v": lambda p: 2 * (2 * p // 3 + 1),
    "zb-v": lambda p: 2 * p,
}
SKEW = ("1", "1.2", "0.8", "0.05")  # F, I, W, c
RANKS = range(2, 17)
# Global bubble of 1F1B-V in chunk cells, p = 2 ... 16, m = 4p; p = 4, 8 and 16 are published.
ONE_F_ONE_B_V = (4, 8, 15, 18, 22, 30, 33, 36, 45, 48, 52, 60, 63, 67, 75)


def metrics(schedule: Schedule, costs: UniformCosts | None = None) -> Metrics:
    return measure(simulate(schedule, costs or UniformCosts(schedule.problem)))


def peaks(found: Metrics) -> tuple[float, ...]:
    assert found.peak_memory is not None
    return found.peak_memory


def cells(time: float, segments: int = 1) -> float:
    """A time of F = I = W = 1 in cells of a chunk and segment."""
    return float(Fraction(time * 2 * segments).limit_denominator(1000))


@pytest.mark.parametrize("p", RANKS)
def test_v_half_and_v_min_at_every_size(p: int) -> None:
    half = metrics(build("v-half", Problem(p, 4 * p, chunks=2)))
    assert cells(max(peaks(half))) == PEAK["v-half"](p)
    assert cells(half.global_bubble_s) == max(1, 6 * ceil(p / 2) - 7)
    least = metrics(build("v-min", Problem(p, 4 * p, chunks=2)))
    assert cells(max(peaks(least))) == PEAK["v-min"](p)
    bubble = 6 * p - 1 - 3 * PEAK["v-min"](p) + (4 if p % 3 == 2 and p >= 5 else 0)
    assert cells(least.global_bubble_s) == (3 if p == 2 else bubble)


@pytest.mark.parametrize("p", RANKS)
def test_1f1b_v_at_every_size(p: int) -> None:
    found = metrics(build("1f1b-v", Problem(p, 4 * p, chunks=2)))
    assert cells(max(peaks(found))) == PEAK["1f1b-v"](p)
    assert cells(found.global_bubble_s) == ONE_F_ONE_B_V[p - 2]


@pytest.mark.parametrize(
    ("name", "p", "makespan", "bubble", "peak"),
    [
        ("v-half", 4, 26.5, 2.5, [3] * 4),
        ("v-min", 4, 29.5, 5.5, [2] * 4),
        ("1f1b-v", 4, 31.5, 7.5, [3] * 4),
        ("v-half", 8, 56.5, 8.5, [5] * 8),
        ("v-min", 8, 61.5, 13.5, [3.5, *[4] * 7]),
        ("1f1b-v", 8, 64.5, 16.5, [6] * 8),
    ],
)
def test_the_table(name: str, p: int, makespan: float, bubble: float, peak: list[float]) -> None:
    found = metrics(build(name, Problem(p, 2 * p, chunks=2)))
    assert (found.makespan_s, found.global_bubble_s, found.span_bubble_s) == (
        makespan,
        bubble,
        bubble,
    )
    assert list(peaks(found)) == peak


@pytest.mark.parametrize(("name", "makespan"), [("v-half", 28.8), ("v-min", 36.4)])
def test_unequal_costs_and_latency(name: str, makespan: float) -> None:
    problem = Problem(4, 8, chunks=2)
    found = metrics(build(name, problem), UniformCosts(problem, *SKEW))
    assert found.makespan_s == pytest.approx(makespan, rel=1e-12)


@pytest.mark.parametrize(("m", "bubble"), [(8, 20.8), (16, 30.4), (32, 49.6), (64, 88.0)])
def test_v_min_repeats_its_bubble_where_costs_differ(m: int, bubble: float) -> None:
    problem = Problem(4, m, chunks=2)
    costs = UniformCosts(problem, *SKEW[:3])
    wanted = {"v-min": bubble, "v-half": 7.8, "zb-v": 3.6}
    for name, value in wanted.items():
        found = metrics(build(name, problem), costs)
        assert found.global_bubble_s == pytest.approx(value / 2, rel=1e-12)


def test_v_zb_where_f_i_and_w_differ() -> None:
    """No more than the published generator: global bubble 3.6, span bubble 1.6 chunk units."""
    problem = Problem(4, 8, chunks=2)
    costs = UniformCosts(problem, *SKEW[:3])
    found = metrics(build("v-zb", problem, costs), costs)
    assert found.global_bubble_s <= 1.8 + 1e-9
    assert found.span_bubble_s <= 0.8 + 1e-9


def test_longer_runs_repeat_the_steady_state() -> None:
    """What `arrange` repeats is what reordering all units would give, op for op."""
    for name, block in BLOCKS.items():
        for segments in (1, 3):
            problem = Problem(3, 40, chunks=2, segments=segments)
            long = block(3).over(segments)
            direct = order(long, 40 * segments, segments - 1)
            wanted = spell(streams(direct), problem, v(3), full=long.full)
            assert arrange(block(3), problem).rows == wanted.rows, name


@pytest.mark.parametrize("name", [*BLOCKS, "zb-v"])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_over_segments_each_chunk_holds_k_minus_1_more(name: str, p: int, k: int) -> None:
    problem = Problem(p, 4 * p, chunks=2, segments=k)
    schedule = build(f"seq-{name}", problem)
    validate(schedule)
    found = metrics(schedule)
    whole = metrics(build(name, Problem(p, 4 * p, chunks=2)))
    base = cells(max(peaks(whole)))
    assert base == (2 if p == 1 else PEAK[name](p))
    assert cells(max(peaks(found)), k) == base + 2 * (k - 1)
    assert cells(found.global_bubble_s, k) <= cells(whole.global_bubble_s)


@pytest.mark.parametrize(("k", "bubble"), [(1, 11), (2, 9), (3, 9), (4, 9), (8, 9)])
def test_bubbles_of_seq_v_min(k: int, bubble: int) -> None:
    """p = 4, m = 8: in cells a little less than V-Min's, so a k-th of it in time."""
    problem = Problem(4, 8, chunks=2, segments=k)
    assert cells(metrics(build("seq-v-min", problem)).global_bubble_s, k) == bubble


@pytest.mark.parametrize("name", ["v-min", "v-half", "1f1b-v", "zb-v", "v-zb", "v-adaptive"])
def test_one_segment_is_the_plain_form(name: str) -> None:
    for problem in (Problem(1, 3, 2), Problem(3, 2, 2), Problem(4, 9, 2)):
        assert build(f"seq-{name}", problem).rows == build(name, problem).rows


@settings(deadline=None, max_examples=40)
@given(p=st.integers(1, 6), segments=st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_micro_batches_may_differ_in_segments(p: int, segments: list[int]) -> None:
    problem = Problem(p, len(segments), chunks=2, segments=tuple(segments))
    for name in ("seq-v-min", "seq-v-half", "seq-1f1b-v", "seq-zb-v"):
        validate(build(name, problem))


def test_v_zb_where_no_order_fits_since_segments_differ() -> None:
    """A segment of a short micro-batch holds more than the third that the limit counts."""
    problem = Problem(4, 8, chunks=2, segments=(1, 1, 2, 3, 1, 2, 1, 2))
    costs = UniformCosts(problem, "0.82", "0.70", "1.21", "2.25")
    validate(build("seq-v-zb", problem, costs))
    one = build("seq-v-adaptive", problem, costs, memory_limit=1)
    validate(one)
    assert max(peaks(measure(simulate(one, costs)))) == 1


@settings(deadline=None, max_examples=40)
@given(
    p=st.integers(1, 8),
    units=st.integers(1, 20),
    name=st.sampled_from(sorted(BLOCKS)),
    segments=st.integers(1, 4),
)
def test_peak_is_bounded_by_lifespans(p: int, units: int, name: str, segments: int) -> None:
    """The paper's bound: sum over a rank's stages of ceil(lifespan / period)."""
    block = BLOCKS[name](p).over(segments)
    lives = block.lifespans()
    bound = max(
        sum(ceil(lives[stage] / block.period) for stage in block.placement.stages_of(rank))
        for rank in range(p)
    )
    schedule = arrange(BLOCKS[name](p), Problem(p, units, 2, segments))
    worst = max(map(_peak, schedule.rows))
    assert worst <= block.peak() <= bound


def _peak(row: tuple[object, ...]) -> int:
    held = worst = 0
    for op in row:
        held += {Kind.F: 1, Kind.I: 0}.get(op.kind, -1)  # type: ignore[attr-defined]
        worst = max(worst, held)
    return worst


def test_a_block_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ProblemError, match=r"0F in cell 0 and 3F in cell 6 of rank 0 collide"):
        Block(v(2), forward=(0, 1, 2, 6), backward=(14, 13, 9, 7))
    with pytest.raises(ProblemError, match=r"1F in cell 0 needs 0F, which ends at 1"):
        Block(v(2), forward=(0, 0, 2, 3), backward=(7, 6, 5, 4))
    with pytest.raises(ProblemError, match="set period=6"):
        Block(v(1), forward=(0, 1), backward=(3, 2), period=5)


def test_a_block_is_not_bound_to_the_v() -> None:
    """1F1B is the block of one chunk in which F and B take one and two cells per hop.

    Later ranks fetch F's earlier than they must: reordering lets each hold as much as the worst.
    """
    for p in (1, 2, 3, 4, 8):
        block = Block(
            loop(p),
            forward=tuple(range(p)),
            backward=tuple(3 * p - 2 - 2 * r for r in range(p)),
            period=3,
            full=True,
        )
        problem = Problem(p, 3 * p)
        found, known = metrics(arrange(block, problem)), metrics(build("1f1b", problem))
        assert (found.makespan_s, max(peaks(found))) == (known.makespan_s, max(peaks(known)))


def span_formula(p: int, units: int) -> int:
    """Span bubble of the adaptive scheduler under a limit in chunk units, in chunk cells."""
    return 3 * p - 1 - 3 * units + max(3 * p, p + 1 + 2 * ceil(units / 2))


@pytest.mark.parametrize(
    ("units", "makespan", "bubble"), [(4, 59, 11), (5, 56, 8), (6, 53, 5), (7, 52, 4), (8, 51, 3)]
)
def test_adaptive_on_four_ranks(units: int, makespan: int, bubble: int) -> None:
    found = metrics(build("v-adaptive", Problem(4, 8, chunks=2), memory_limit=units / 2))
    assert (cells(found.makespan_s), cells(found.global_bubble_s)) == (makespan, bubble)
    assert cells(found.span_bubble_s) == span_formula(4, units)
    assert cells(max(peaks(found))) <= units


@pytest.mark.parametrize("units", [8, 9, 10, 11, 13, 15, 16])
def test_adaptive_on_eight_ranks(units: int) -> None:
    found = metrics(build("v-adaptive", Problem(8, 16, chunks=2), memory_limit=units / 2))
    assert cells(found.span_bubble_s) == span_formula(8, units)
    assert cells(max(peaks(found))) <= units
    if units == 8:
        assert (found.makespan_s, list(peaks(found))) == (59.5, [4] * 8)


@pytest.mark.parametrize("costs", [("1", "1", "1"), SKEW, ("1", "1.5", "1.1", "0.02")])
@pytest.mark.parametrize("k", [1, 2])
def test_more_memory_is_never_slower_and_no_published_order_faster(
    costs: tuple[str, ...], k: int
) -> None:
    problem = Problem(4, 8 // k, chunks=2, segments=k)
    model = UniformCosts(problem, *costs)
    published = [
        metrics(build(f"seq-{name}", problem), model) for name in (*PEAK,) if name != "1f1b-v"
    ]
    before = float("inf")
    for units in range(2 * k, 2 * (4 + k - 1) + 1):
        limit = units / 2 / k
        schedule = build("seq-v-adaptive", problem, model, memory_limit=limit)
        validate(schedule)
        found = metrics(schedule, model)
        assert max(peaks(found)) <= limit + 1e-9
        assert found.span_bubble_s <= before + 1e-9
        before = found.span_bubble_s
        for other in published:
            if max(peaks(other)) <= limit + 1e-9:
                assert found.span_bubble_s <= other.span_bubble_s + 1e-9
                assert found.makespan_s <= other.makespan_s + 1e-9


def test_v_zb_is_no_slower_than_zb_v_and_its_greedy_generator() -> None:
    problem = Problem(4, 8, chunks=2)
    costs = UniformCosts(problem, *SKEW)
    found = metrics(build("v-zb", problem, costs), costs)
    fixed = metrics(build("zb-v", problem), costs)
    assert found.makespan_s <= fixed.makespan_s <= 26.55  # the generator's makespan,
    assert found.span_bubble_rate <= 0.0661  # and its rate
    assert max(peaks(found)) <= 4
    short = metrics(build("v-zb", Problem(8, 8, chunks=2)))
    assert cells(short.makespan_s) <= 55  # the generator; ZB-V's fixed order takes 62
    for p, m in [(1, 1), (2, 3), (4, 8), (8, 16)]:
        equal = metrics(build("v-zb", Problem(p, m, chunks=2)))
        assert (equal.span_bubble_s, equal.global_bubble_s) == (0, (p - 1) / 2)


def test_a_limit_below_one_micro_batch_is_refused() -> None:
    with pytest.raises(ProblemError, match="set memory_limit=1"):
        build("v-adaptive", Problem(4, 8, chunks=2), memory_limit=0.5)
    with pytest.raises(ProblemError, match="no number"):
        build("v-adaptive", Problem(4, 8, chunks=2), memory_limit=float("nan"))
    one = metrics(build("v-adaptive", Problem(4, 3, chunks=2), memory_limit=1))
    assert max(peaks(one)) == 1


def test_the_adaptive_scheduler_tries_the_papers_blocks() -> None:
    """V-Min's block is among them where it is a V of even offsets, and no rank exceeds its peak."""
    for p in (2, 4, 5, 8):
        tried = {hops.block(p).forward + hops.block(p).backward for _, hops in blocks(p, 2 * p)}
        assert v_min.block(p).forward + v_min.block(p).backward in tried
        for peak, hops in blocks(p, p + 2):
            assert peak == hops.block(p).peak() <= p + 2


def test_more_memory_than_v_zb_holds_is_not_slower() -> None:
    problem = Problem(6, 6, chunks=2)
    costs = UniformCosts(problem, "1.8", "1.6", "1.5", "0.5")

    def makespan(name: str, **options: float) -> float:
        return simulate(build(name, problem, costs, **options), costs).makespan_s

    assert makespan("v-adaptive", memory_limit=12) <= makespan("v-zb")
