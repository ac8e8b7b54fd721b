"""The candidates of Ada-Grouper: memory as simulated, and the Pareto set by brute force."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.cost import UniformCosts
from longpipe.cost.analytic import AnalyticCosts, Device, Load
from longpipe.cost.comm import Link
from longpipe.cost.flops import DecoderShape
from longpipe.errors import PlanError
from longpipe.ir import Problem, loop
from longpipe.plan.grouping import RankMemory, candidates, feasible, in_flight, memory_of
from longpipe.schedules import build
from longpipe.simulate import measure, simulate

SHAPE = DecoderShape(64, 8, 4, 2, 16, 176, 512)


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_what_is_in_flight_is_what_the_simulator_counts(segments: int) -> None:
    for p, m in product((1, 2, 4), (1, 4, 6)):
        problem = Problem(p, m, segments=segments)
        for g in (g for g in range(1, m * segments + 1) if m * segments % g == 0):
            timeline = simulate(build("seq-kfkb", problem, group=g), UniformCosts(problem))
            found = [in_flight(rank, p, m, g, segments) for rank in range(p)]
            assert measure(timeline).peak_memory == pytest.approx(found)


@given(
    batch=st.integers(1, 60),
    ranks=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=5),
    limit=st.integers(1, 400),
    segments=st.integers(1, 3),
)
@settings(deadline=None)
def test_the_pareto_set_against_brute_force(
    batch: int, ranks: list[tuple[int, int]], limit: int, segments: int
) -> None:
    """Written out from the page: all pairs, then those that no other pair covers."""
    p = len(ranks)
    fitting = {}
    for sequences, group in product(range(1, batch + 1), range(1, batch * segments + 1)):
        if batch % sequences or batch // sequences * segments % group:
            continue
        peaks = [
            static + in_flight(r, p, batch // sequences, group, segments) * act * sequences
            for r, (static, act) in enumerate(ranks)
        ]
        if max(peaks) <= limit:
            fitting[group, sequences] = tuple(peaks)
    wanted = {
        pair
        for pair in fitting
        if not any(o != pair and o[0] >= pair[0] and o[1] >= pair[1] for o in fitting)
    }
    memory = [RankMemory(*each) for each in ranks]
    found = {
        (each.group, each.sequences): each
        for each in feasible(batch, memory, limit, segments=segments)
    }
    assert {pair: each.peak_bytes for pair, each in found.items()} == fitting
    if not fitting:
        with pytest.raises(PlanError, match="groups of 1 with 1 sequence"):
            candidates(batch, memory, limit, segments=segments)
        return
    pruned = candidates(batch, memory, limit, segments=segments)
    assert [(each.group, each.sequences) for each in pruned] == sorted(wanted)
    assert all(found[each.group, each.sequences] == each for each in pruned)
    assert all(each.microbatches * each.sequences == batch for each in pruned)


def test_the_best_size_of_each_group_is_the_page_s() -> None:
    """b_max(g): the largest n_seq with static + g (p-r) act n_seq <= cap that divides the batch."""
    memory = [RankMemory(static_bytes=100, sequence_bytes=2)] * 4
    largest: dict[int, int] = {}
    for each in feasible(64, memory, 164):
        largest[each.group] = max(largest.get(each.group, 0), each.sequences)
    assert largest == {1: 8, 2: 4, 4: 2, 8: 1}
    assert [(c.group, c.sequences) for c in candidates(64, memory, 164)] == [
        (1, 8), (2, 4), (4, 2), (8, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("group", "segments"), [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2)])
def test_memory_from_a_cost_model_bounds_the_simulated_peak(group: int, segments: int) -> None:
    """With the bytes of a decoder, two sequences in a micro-batch; the bound is near."""
    problem = Problem(4, 8, segments=segments)
    load = Load((2, 2, 2, 2), ((128 // segments,) * segments,), rows=2)
    costs = AnalyticCosts(problem, SHAPE, load, Device(1e12), Link(0.0, 1e9))
    placement = loop(4)
    memory = memory_of(placement, costs, (5.0, 6.0, 7.0, 8.0), sequences=2, segments=segments)
    assert [each.static_bytes for each in memory] == [5, 6, 7, 8]
    (found,) = (
        each
        for each in feasible(16, memory, float("inf"), segments=segments)
        if (each.group, each.sequences) == (group, 2)
    )
    timeline = simulate(build("seq-kfkb", problem, group=group), costs)
    for r, peak in enumerate(measure(timeline).peak_memory or ()):
        assert peak <= found.peak_bytes[r] - memory[r].static_bytes <= 1.2 * peak
