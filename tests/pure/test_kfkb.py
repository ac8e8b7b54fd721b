"""kFkB: its order, its memory, and the latency law of the page, all in whole ticks.

Times f and b are those of one unit (a micro-batch, or a segment of one), c is the latency of a
message, g the group, G the number of groups.
"""

from fractions import Fraction
from itertools import product
from math import ceil, gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import Problem, Schedule, clock, makespan_ticks
from longpipe.passes import add_messages
from longpipe.schedules import build
from longpipe.simulate import measure, simulate
from longpipe.validate import validate

RATIOS = ((1, 1), (1, 2), (2, 3), (3, 2))


def divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]


def seq(ranks: int, microbatches: int, segments: int, group: int) -> Schedule:
    return build("seq-kfkb", Problem(ranks, microbatches, segments=segments), group=group)


def bubble(schedule: Schedule, f: int, b: int, c: int) -> int:
    """Makespan less a rank's work, in ticks; a unit takes f forward and b backward."""
    problem = schedule.problem
    k = problem.segments_max
    costs = UniformCosts(problem, forward=f * k, input_grad=b * k, weight_grad=0, comm=c)
    assert costs.tick_s == 1
    ticks = makespan_ticks(clock(schedule, costs))
    assert isinstance(ticks, int)
    return ticks - problem.microbatches * k * (f + b)


def law(p: int, g: int, groups: int, f: int, b: int, c: int, ahead: int = 0) -> int:
    """The page's law; `ahead` is the number of warm-up groups that segments add."""
    shown = max(0, 2 * c - (g - 1) * (f + b))
    return (p - 1) * (f + b + 2 * c) + shown * ceil(
        Fraction(max(0, groups - 2 - ahead) * (p - 1), p)
    )


def test_the_page_s_example() -> None:
    """p = 4, m = 16, f = 1, b = 2, c = 1: 37 with g = 1, and the ideal 15 with g = 2."""
    problem = Problem(4, 16)
    found = [bubble(build("kfkb", problem, group=g), f=1, b=2, c=1) for g in (1, 2)]
    assert found == [37, 15]


@pytest.mark.parametrize("p", range(1, 9))
def test_latency_law(p: int) -> None:
    """Exact in 2560 cases: p <= 8, g <= 4, G <= 11, four ratios f : b, two latencies."""
    for g, groups, (f, b), c in product(range(1, 5), range(2, 12), RATIOS, (1, 3)):
        schedule = build("kfkb", Problem(p, g * groups), group=g)
        assert bubble(schedule, f, b, c) == law(p, g, groups, f, b, c)


def test_without_latency_every_group_has_1f1b_s_bubble() -> None:
    for p, m, (f, b) in product((1, 2, 4, 7), (1, 6, 12), RATIOS):
        for g in divisors(m):
            assert bubble(build("kfkb", Problem(p, m), group=g), f, b, 0) == (p - 1) * (f + b)


def test_hidden_if_and_only_if_the_latency_fits_into_the_group() -> None:
    """More micro-batches add nothing to the bubble iff 2c <= (g-1)(f+b); g* is the first such g."""
    for p, (f, b), c in product((2, 4, 8), RATIOS, range(7)):
        found = {}
        for g in range(1, 9):
            few, many = (
                bubble(build("kfkb", Problem(p, g * groups), group=g), f, b, c) for groups in (3, 9)
            )
            found[g] = many == (p - 1) * (f + b + 2 * c)
            assert found[g] == (2 * c <= (g - 1) * (f + b))
            assert found[g] == (few == many)
        best = 1 + ceil(Fraction(2 * c, f + b))
        assert min((g for g, hidden in found.items() if hidden), default=9) == min(best, 9)


def test_peak_in_flight() -> None:
    for p, m in product((1, 2, 4, 8), (1, 4, 12)):
        for g in divisors(m):
            problem = Problem(p, m)
            timeline = simulate(build("kfkb", problem, group=g), UniformCosts(problem))
            want = [g * min(p - r, m // g) for r in range(p)]
            assert list(measure(timeline).peak_memory or ()) == want


def test_one_in_a_group_is_1f1b_and_all_in_one_is_gpipe() -> None:
    for p, m, k in product((1, 2, 4, 8), (1, 3, 8), (1, 2, 3, 4)):
        problem = Problem(p, m, segments=k)
        units = m * k
        assert seq(p, m, k, 1).rows == build("seq1f1b", problem).rows
        assert seq(p, m, k, units).rows == build("gpipe", problem).rows
        if k == 1:
            assert build("kfkb", problem).rows == build("1f1b", problem).rows
            for g in divisors(m):
                assert build("kfkb", problem, group=g).rows == seq(p, m, 1, g).rows


def test_whole_micro_batches_in_a_group_of_segments() -> None:
    """With g k segments in a group, the micro-batches go in the groups of kfkb with g."""
    for p, m, k, g in ((2, 4, 3, 2), (4, 8, 2, 4), (4, 6, 4, 1)):
        rows = seq(p, m, k, g * k).rows
        parents = build("kfkb", Problem(p, m), group=g).rows
        for row, parent in zip(rows, parents, strict=True):
            firsts = tuple(op._replace(seg=0) for op in row if op.seg == (k - 1) * (op.kind == "B"))
            assert firsts == parent


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_law_and_peak_over_segments(p: int) -> None:
    """The same law, f and b being a segment's, with `ahead` groups fewer in the steady state."""
    for m, k, (f, b), c in product((1, 2, 3, 6), (2, 3, 4), RATIOS[1:], (0, 1, 2)):
        for g in divisors(m * k):
            groups, ahead = m * k // g, -(-(k - gcd(g, k)) // g)
            schedule = seq(p, m, k, g)
            assert bubble(schedule, f, b, c) == law(p, g, groups, f, b, c, ahead)
            timeline = simulate(schedule, UniformCosts(schedule.problem))
            want = [g * min(p - r + ahead, groups) / k for r in range(p)]
            assert measure(timeline).peak_memory == pytest.approx(want)


@given(
    ranks=st.integers(1, 5),
    segments=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    data=st.data(),
)
def test_valid_under_rendezvous_whatever_the_segments(
    ranks: int, segments: list[int], data: st.DataObject
) -> None:
    """Micro-batches may differ in their segments; a send may block until it is received."""
    problem = Problem(ranks, len(segments), segments=tuple(segments))
    group = data.draw(st.sampled_from(divisors(sum(segments))))
    schedule = build("seq-kfkb", problem, group=group)
    validate(schedule)
    validate(add_messages(schedule))


@pytest.mark.parametrize(
    ("microbatches", "group", "way_out"),
    [(12, 5, "use group=4 or 6"), (12, 0, "use group=1"), (12, 24, "use group=12"),
     (7, 3, "use group=1 or 7"), (12, -3, "use group=1")],
)  # fmt: skip
def test_a_group_that_does_not_divide_is_refused(
    microbatches: int, group: int, way_out: str
) -> None:
    with pytest.raises(ProblemError, match=f"does not divide {microbatches}: {way_out}$"):
        build("kfkb", Problem(2, microbatches), group=group)
