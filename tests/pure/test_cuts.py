"""Segment cuts and layer partitions: the paper's numbers, totality, and optimality."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.errors import PlanError
from longpipe.ir import Placement, loop, v
from longpipe.plan import (
    balanced_layers,
    checked_cuts,
    checked_layers,
    equal_cost_cuts,
    even_cuts,
    layer_ranges,
)

# GPT 2.7B as in the paper's code: 32 layers, hidden 2560, 32 heads of 80, vocabulary 32000.
PAIR = 32 * 32 * (4 * 80 + 3)
LINEAR = 32 * (8 * 2560 * 2560 + 4 * 2560 * 10240) + 4 * 2560 * 32000


def recurrence(tokens: int, segments: int, multiple: int) -> list[int]:
    """The paper's code: from the end, the smaller root of each segment's quadratic, floored."""
    whole = PAIR * tokens**2 / 2 + LINEAR * tokens
    lengths: list[int] = []
    left = tokens
    for _ in range(segments - 1):
        b = PAIR * left + LINEAR
        n = (b - (b * b - 2 * PAIR * whole / segments) ** 0.5) / PAIR
        lengths.insert(0, int(n) // multiple * multiple)
        left -= lengths[0]
    return [left, *lengths]


def test_closed_form_equals_the_papers_recurrence_up_to_rounding() -> None:
    ours = equal_cost_cuts(32768, 4, linear=LINEAR, pair=PAIR, multiple=8)
    assert ours == (12016, 8256, 6704, 5792)
    theirs = recurrence(32768, 4, 8)
    assert theirs == [12032, 8248, 6696, 5792]


@pytest.mark.parametrize("tokens", [4096, 32768, 131072])
@pytest.mark.parametrize("segments", [2, 3, 4, 8, 16])
def test_segments_cost_the_same(tokens: int, segments: int) -> None:
    lengths = equal_cost_cuts(tokens, segments, linear=LINEAR, pair=PAIR)
    costs = []
    start = 0
    for length in lengths:
        stop = start + length
        costs.append(LINEAR * length + PAIR * (stop**2 - start**2) / 2)
        start = stop
    per_token = LINEAR + PAIR * tokens  # the dearest one
    assert max(costs) - min(costs) <= 2 * per_token


sizes = st.tuples(st.integers(1, 40), st.integers(1, 16), st.integers(0, 400))


@given(
    size=sizes,
    linear=st.floats(0, 1e15, allow_subnormal=False),
    pair=st.floats(0, 1e12, allow_subnormal=False),
)
def test_any_cut_is_total_positive_and_a_multiple(
    size: tuple[int, int, int], linear: float, pair: float
) -> None:
    segments, multiple, spare = size
    tokens = (segments + spare) * multiple
    if linear + pair == 0:
        linear = 1.0
    for lengths in (
        equal_cost_cuts(tokens, segments, linear=linear, pair=pair, multiple=multiple),
        even_cuts(tokens, segments, multiple),
    ):
        assert len(lengths) == segments
        assert sum(lengths) == tokens
        assert all(length >= multiple and length % multiple == 0 for length in lengths)


@given(segments=st.integers(1, 12), spare=st.integers(0, 500), multiple=st.integers(1, 8))
def test_later_segments_are_not_longer_and_no_attention_means_even(
    segments: int, spare: int, multiple: int
) -> None:
    tokens = (segments + spare) * multiple
    falling = equal_cost_cuts(tokens, segments, linear=5.0, pair=1.0, multiple=multiple)
    assert all(a + multiple >= b for a, b in pairwise(falling))
    flat = equal_cost_cuts(tokens, segments, linear=5.0, pair=0.0, multiple=multiple)
    assert max(flat) - min(flat) <= multiple


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((100, 4, 8), "use a sequence length of 96 or 104"),
        ((3, 4, 1), "use at most 3 segments"),
        ((64, 9, 8), "use at most 8 segments"),
        ((64, 0, 8), "segments must be at least 1"),
    ],
)
def test_impossible_cuts_say_what_to_change(arguments: tuple[int, int, int], advice: str) -> None:
    tokens, segments, multiple = arguments
    with pytest.raises(PlanError, match=advice):
        even_cuts(tokens, segments, multiple)
    with pytest.raises(PlanError, match=advice):
        equal_cost_cuts(tokens, segments, linear=1, pair=1, multiple=multiple)


def test_costs_must_be_costs() -> None:
    with pytest.raises(PlanError, match="not both 0"):
        equal_cost_cuts(64, 2, linear=0, pair=0)
    with pytest.raises(PlanError, match="0 or more"):
        equal_cost_cuts(64, 2, linear=-1, pair=2)


def test_given_cuts_are_checked() -> None:
    assert checked_cuts((5, 3), 8) == (5, 3)
    for lengths, advice in (((5, 2), "add 1"), ((5, 4), "take away 1"), ((8, 0), "at least one")):
        with pytest.raises(PlanError, match=advice):
            checked_cuts(lengths, 8)


def busiest(counts: tuple[int, ...], placement: Placement, first: float, last: float) -> float:
    stages = placement.stages
    loads = [0.0] * placement.ranks
    for stage, count in enumerate(counts):
        extra = first * (stage == 0) + last * (stage == stages - 1)
        loads[placement(stage, 0)] += count + extra
    return max(loads)


@settings(deadline=None, max_examples=80)
@given(
    placement=st.sampled_from([loop(1), loop(2), loop(3), loop(4), loop(2, 2), v(2), v(1)]),
    more=st.integers(0, 5),
    first=st.sampled_from([0, 0.3, 1, 2.5]),
    last=st.sampled_from([0, 0.7, 1, 3.25]),
)
def test_partition_has_the_least_possible_maximum(
    placement: Placement, more: int, first: float, last: float
) -> None:
    """Against every partition there is."""
    layers = placement.stages + more
    found = balanced_layers(layers, placement, first=first, last=last)
    assert checked_layers(found, layers, placement.stages) == found
    best = min(
        busiest(counts, placement, first, last)
        for counts in product(range(1, layers + 1), repeat=placement.stages)
        if sum(counts) == layers
    )
    assert busiest(found, placement, first, last) == pytest.approx(best)


def test_embedding_and_head_take_the_place_of_layers() -> None:
    assert balanced_layers(22, loop(8), first=1, last=1) == (2, 3, 3, 3, 3, 3, 3, 2)
    assert balanced_layers(8, loop(4)) == (2, 2, 2, 2)


def test_partition_errors_say_what_to_change() -> None:
    with pytest.raises(PlanError, match="at most 3 stages"):
        balanced_layers(3, loop(4))
    for counts, advice in (
        ((2, 2, 2), "give one number for each"),
        ((4, 0), "at least one layer"),
        ((3, 4), "add 1"),
        ((5, 4), "remove 1"),
    ):
        with pytest.raises(PlanError, match=advice):
            checked_layers(counts, 8, 2)
    assert balanced_layers(4, Placement(2, ((0, 1), (1, 0)))) == (2, 2)  # replicas of both stages
    with pytest.raises(PlanError, match="explicitly"):
        balanced_layers(4, Placement(2, ((0, 1), (1, 1))))


def test_layer_ranges_are_contiguous_and_total() -> None:
    assert layer_ranges((1, 3, 2)) == (range(0, 1), range(1, 4), range(4, 6))
