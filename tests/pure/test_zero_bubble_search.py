"""The zero-bubble search: valid, within the limit, never behind the published heuristic."""

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_schedules_numbers import LINEAR, PAIR, SKEW
from zero_bubble_costs import Tokens, Uneven, found, published, within

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import EqualCosts, Kind, Op, Problem, row_memory
from longpipe.plan import equal_cost_cuts, even_cuts
from longpipe.schedules import _zb_search, build
from longpipe.schedules._zb_greedy import Knobs, heuristic
from longpipe.schedules._zb_streams import (
    Outcome,
    fits,
    one_by_one,
    run,
    streams,
    to_letters,
    to_schedule,
)
from longpipe.simulate import measure, simulate
from longpipe.validate import validate


@settings(deadline=None, max_examples=80)
@given(
    ranks=st.integers(1, 5),
    segments=st.one_of(
        st.lists(st.integers(1, 4), min_size=1, max_size=6),
        st.integers(1, 8).map(lambda count: [1] * count),
    ),
    seed=st.integers(0, 999),
    early=st.booleans(),
    limit=st.one_of(st.none(), st.sampled_from([1.5, 2, 3, 4, 5, 9])),
)
@example(ranks=4, segments=[2, 1, 2], seed=280831, early=False, limit=None)  # rounding
@example(ranks=4, segments=[1] * 4, seed=79, early=False, limit=4)  # a rank warms up with all F's
def test_unequal_costs(
    ranks: int, segments: list[int], seed: int, early: bool, limit: float | None
) -> None:
    """Valid, within the limit; behind the heuristic in nothing, behind orders that fit not in all.

    One that the heuristic beats in makespan may have a smaller span, for which nothing is given up.
    """
    problem = Problem(ranks, len(segments), 1, tuple(segments))
    costs = Uneven(seed, early)
    if limit is not None and not fits(
        within(problem, costs, limit), (one_by_one(problem),) * ranks
    ):
        with pytest.raises(ProblemError, match="set memory_limit="):
            build("seq-zb-auto", problem, costs, memory_limit=limit)
        return
    schedule = build("seq-zb-auto", problem, costs, memory_limit=limit)
    validate(schedule)
    cost, makespan = found(schedule, costs)
    ops = streams(problem, costs)
    if limit is not None:
        ops = within(problem, costs, limit)
        assert fits(ops, to_letters(schedule))
        theirs = published(ops)
        assert cost <= theirs.span
        assert makespan <= theirs.makespan
    for name in ("seq1f1b", "seq-zb-h1", *(("seq-zb-h2",) if limit else ())):
        other = build(name, problem)
        if fits(ops, to_letters(other)):
            span, end = found(other, costs)
            assert (cost, makespan) == (span, end) or cost < span or makespan < end


@settings(deadline=None, max_examples=40)
@given(segments=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_letters_run_as_ops_do(segments: list[int], seed: int) -> None:
    """The search's clock and memory are those of the schedules that it makes."""
    problem = Problem(3, len(segments), 1, tuple(segments))
    costs = Uneven(seed, early=True)
    ops = streams(problem, costs)
    for name in ("seq-zb-h1", "seq-zb-h2"):
        schedule = build(name, problem)
        letters = to_letters(schedule)
        assert to_schedule(letters, problem).rows == schedule.rows
        outcome = run(ops, letters).outcome
        assert (outcome.span, outcome.makespan) == found(schedule, costs)
        for rank, row in enumerate(schedule.rows):
            held = peak = 0.0
            for memory in row_memory(row, costs):
                held += memory.holds
                peak = max(peak, held)
            limit = tuple(peak if each == rank else 10**6 for each in range(3))
            assert fits(replace(ops, limit=limit), letters)
            limit = tuple(peak - 1 if each == rank else 10**6 for each in range(3))
            assert not fits(replace(ops, limit=limit), letters)


@pytest.mark.parametrize(
    ("knobs", "rows"),
    [
        (Knobs(True, True, True), "FFFIFIWFWIWIWIW FFIFIFIWFIWIWWW FIFIFIFIWFIWWWW"),
        (Knobs(False, True, False), "FFFFIWIFWIWIWIW FFFIIFIWFIWIWWW FIFIFIFIWFIWWWW"),
        (Knobs(False, False, True), "FFFFIWFIWIWIWIW FFFIFIWFIIWWIWW FIFIFIFIWFIWWWW"),
    ],
)
def test_the_heuristics_rows(knobs: Knobs, rows: str) -> None:
    """As another program that follows the paper's text has them: F, I, W = 5, 2, 5, limit 4."""
    problem = Problem(3, 5)
    costs = UniformCosts(problem, forward=5, input_grad=2, weight_grad=5)
    assert heuristic(within(problem, costs, 4), knobs) == tuple(rows.split())


def test_neither_span_nor_makespan_may_be_worse_than_the_heuristics() -> None:
    """However much of the one another order would save for the other."""
    theirs, other = Outcome(10, 20, 0), Outcome(5, 40, 0)
    score = _zb_search._score([theirs, Outcome(11, 15, 0)], [theirs, other])
    for worse in (Outcome(6, 21, 0), Outcome(10.5, 20, 0), other):
        assert score(worse) > score(theirs)
    assert score(Outcome(10, 19, 0)) < score(theirs)
    assert score(Outcome(9, 20, 0)) < score(theirs)


def test_rows_that_wait_for_each_other_do_not_run() -> None:
    ops = streams(Problem(2, 2), EqualCosts())
    assert run(ops, ("FIWFIW", "FFIIWW")) is None


@pytest.mark.parametrize(
    ("p", "m", "limit", "most"), [(8, 16, 4, 81), (8, 16, 6, 65), (8, 24, 3, 149), (4, 8, 3, 31)]
)
def test_below_p_the_ranks_do_not_wait_in_rounds(p: int, m: int, limit: int, most: int) -> None:
    """The heuristic's rounds take 167, 107, 293 and 37 there."""
    problem = Problem(p, m)
    makespan = found(build("zb-auto", problem, memory_limit=limit), EqualCosts())[1]
    assert makespan <= most < published(within(problem, EqualCosts(), limit)).makespan


@pytest.mark.parametrize("limit", [0.9, 0.1])
def test_a_limit_below_one_micro_batch_is_refused_with_the_least(limit: float) -> None:
    with pytest.raises(ProblemError, match="set memory_limit=1"):
        build("zb-auto", Problem(4, 8), memory_limit=limit)
    assert to_letters(build("zb-auto", Problem(2, 2), memory_limit=1))[0] == one_by_one(
        Problem(2, 2)
    )


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_the_default_limit_is_what_zb_h1_needs(segments: int) -> None:
    problem = Problem(4, 8, segments=segments)
    limit = (4 + segments - 1) / segments
    rows = build("seq-zb-auto", problem, memory_limit=limit).rows
    assert build("seq-zb-auto", problem).rows == rows
    peaks = measure(simulate(build("seq-zb-auto", problem), UniformCosts(problem))).peak_memory
    assert max(peaks) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("tokens", "segments", "cuts", "most"),
    [  # global bubble rates; ZB-H1's order has .0460 .0279 .0577 .0341 .3819
        (32768, 4, "equal", 0.0423),
        (32768, 8, "equal", 0.0221),
        (131072, 4, "equal", 0.0488),
        (131072, 8, "equal", 0.0249),
        (131072, 4, "even", 0.3820),
    ],
)
def test_true_costs_of_segments(tokens: int, segments: int, cuts: str, most: float) -> None:
    """At ZB-H1's memory it beats both orders, also where ZB-H1 loses to the full backward."""
    problem = Problem(8, 32, segments=segments)
    equal = equal_cost_cuts(tokens, segments, linear=LINEAR, pair=PAIR, multiple=8)
    costs = Tokens(equal if cuts == "equal" else even_cuts(tokens, segments))
    ideal = sum(map(costs.ticks, build("seq1f1b", problem).rows[0]))
    makespan = {
        name: found(build(name, problem, costs), costs)[1]
        for name in ("seq1f1b", "seq-zb-h1", "seq-zb-auto")
    }
    assert makespan["seq-zb-auto"] <= min(makespan.values())
    assert 1 - ideal / makespan["seq-zb-auto"] <= most


@pytest.mark.parametrize("segments", [1, 2])
def test_large_problems_take_the_short_way(segments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zb_search, "_MANY_OPS", 10)
    monkeypatch.setattr(_zb_search, "_STEPS", 10)
    problem = Problem(4, 8, segments=segments)
    costs = UniformCosts(problem, comm="0.05", **SKEW)
    schedule = build("seq-zb-auto", problem, costs)
    validate(schedule)
    cost, makespan = found(schedule, costs)
    theirs = found(build("seq-zb-h1", problem), costs)
    assert (cost, makespan) <= theirs


class _GrowingCosts(EqualCosts):
    """The queue of an I holds more than what it frees: F +3, I +1, W -4."""

    def holds(self, op: Op) -> int:
        return {Kind.F: 3, Kind.I: 1, Kind.W: -4, Kind.B: -3}[op.kind]


def test_the_limit_holds_where_an_i_adds_memory() -> None:
    costs = _GrowingCosts()
    for limit in (4, 5):
        schedule = build("zb-auto", Problem(3, 5), costs, memory_limit=limit)
        for row in schedule.rows:
            assert max(accumulate(map(costs.holds, row))) <= 3 * limit
