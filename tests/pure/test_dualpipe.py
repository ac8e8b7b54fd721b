"""DualPipeV and DualPipe: the published numbers, at other sizes by formula, and over segments."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe import (
    Metrics,
    Problem,
    ProblemError,
    UniformCosts,
    build,
    measure,
    simulate,
    validate,
)
from longpipe.ir import Kind, Op, Schedule
from longpipe.passes import add_messages
from longpipe.schedules import entry


def numbers(
    name: str, ranks: int, microbatches: int, segments: int = 1, **times: object
) -> Metrics:
    """Of the simulated step; F = I = W = 1 where `times` does not say otherwise."""
    problem = Problem(ranks, microbatches, entry(name).chunks or 1, segments)
    costs = UniformCosts(problem, **times)  # type: ignore[arg-type]
    return measure(simulate(build(name, problem), costs))


@pytest.mark.parametrize(
    ("ranks", "microbatches", "fused", "apart", "peak"),
    [(4, 8, (27, 3), (25.5, 1.5), 4.5), (8, 16, (55, 7), (51.5, 3.5), 8.5)],
)
def test_dualpipe_v_as_tabulated(
    ranks: int,
    microbatches: int,
    fused: tuple[float, float],
    apart: tuple[float, float],
    peak: float,
) -> None:
    """Makespan and both bubbles, with pairs that take three of a chunk's ops, and without."""
    for wanted, pair in ((fused, 3), (apart, None)):
        found = numbers("dualpipe-v", ranks, microbatches, pair=pair)
        assert (found.makespan_s, found.global_bubble_s) == wanted
        assert found.span_bubble_s == wanted[1]
        assert found.peak_memory == (peak,) * ranks


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("pair", [Fraction(5, 2), Fraction(27, 10), 3])
def test_dualpipe_v_by_formula(ranks: int, pair: Fraction) -> None:
    """(p-1)(F&B + B - 3W), in chunks, so half of it here; the peak is 2p+1 chunks."""
    for microbatches in (2 * ranks, 2 * ranks + 3):
        found = numbers("dualpipe-v", ranks, microbatches, pair=pair)
        assert found.global_bubble_s == float((ranks - 1) * (pair + 2 - 3) / 2)
        assert found.peak_memory == (ranks + 0.5,) * ranks


@pytest.mark.parametrize(
    ("ranks", "three", "less"), [(2, 0, 0), (4, 2, 1.5), (8, 6, 4.5), (16, 14, 10.5)]
)
def test_dualpipe_by_formula(ranks: int, three: float, less: float) -> None:
    """(p/2-1)(F&B + B - 3W), the largest over the ranks; p+1 stages held on each rank."""
    for wanted, pair in ((three, 3), (less, 2.5)):
        found = numbers("dualpipe", ranks, 2 * ranks, pair=pair)
        assert found.global_bubble_s == wanted
        assert found.peak_memory == (ranks + 1,) * ranks


def test_unequal_costs() -> None:
    """The formula is an upper bound: (8/2-1)(3 + 2 - 2.4) = 7.8."""
    times = {"forward": 1, "input_grad": "1.2", "weight_grad": "0.8", "pair": 3}
    assert numbers("dualpipe", 8, 16, **times).global_bubble_s == 7.2


@pytest.mark.parametrize("name", ["dualpipe", "dualpipe-v"])
@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (4, 16), (8, 16), (8, 32)])
def test_when_a_pair_pays_off(name: str, ranks: int, microbatches: int) -> None:
    """Apart, the bubble halves; fused, each pair must save more than that, spread over all pairs.

    With F = I = W the makespan falls by F + B - F&B for m-p/2-1 of the pairs (DualPipe: m-p/2-2),
    from the 3m + (p-1)F (DualPipe: (p-2)F) that it has with F&B = F + B.
    """
    two_ends = name == "dualpipe"
    least = Fraction(ranks - 1 - two_ends, 2 * microbatches - ranks - 2 - 2 * two_ends)
    apart = numbers(name, ranks, microbatches)
    full = numbers(name, ranks, microbatches, pair=3)
    assert apart.global_bubble_s == full.global_bubble_s / 2
    assert numbers(name, ranks, microbatches, pair=3 - least).makespan_s == apart.makespan_s
    dearer = numbers(name, ranks, microbatches, pair=3 - least + Fraction(1, 100))
    assert dearer.makespan_s > apart.makespan_s


def test_dualpipe_on_two_ranks() -> None:
    """Each rank starts one direction; the steps of the page, written out for m = 4."""
    schedule = build("dualpipe", Problem(2, 4))
    down, up = (" ".join(map(str, row)) for row in schedule.rows)
    assert down == "0F0 1F2 0F1 1B2 1F3 0B0 1B3 0I1 0W1"
    assert up == "0F2 1F0 0F3 1B0 1F1 0B2 1B1 0I3 0W3"
    assert {tuple(map(str, pair)) for pair in schedule.pairs} == {("1F3", "0B0"), ("1F1", "0B2")}


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 8), (4, 12), (8, 20)])
def test_half_of_dualpipe_is_dualpipe_v(ranks: int, microbatches: int) -> None:
    """Rank r does what rank min(r, p-1-r) of p/2 does there; the V's chunk 1 is the other way."""
    whole = build("dualpipe", Problem(ranks, microbatches))
    half = build("dualpipe-v", Problem(ranks // 2, microbatches // 2, chunks=2))
    for rank, row in enumerate(whole.rows):
        from_end = min(rank, ranks - 1 - rank)
        first = 0 if rank == from_end else 1  # the direction of the rank's stream 0

        def renamed(op: Op, first: int = first, rank: int = rank) -> Op:
            direction = first ^ (op.stage >= ranks // 2)
            stage = ranks - 1 - rank if direction else rank
            return op._replace(stage=stage, mb=op.mb + direction * microbatches // 2)

        assert row == tuple(map(renamed, half.rows[from_end]))


@pytest.mark.parametrize("name", ["seq-dualpipe", "seq-dualpipe-v"])
@pytest.mark.parametrize("segments", [1, 2, 3, 4])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_segments_divide_the_bubble(name: str, ranks: int, segments: int) -> None:
    """And k-1 segments more of each stream are held."""
    parent = numbers(name.removeprefix("seq-"), ranks, 2 * ranks)
    for pair in (None, 3):
        whole = numbers(name.removeprefix("seq-"), ranks, 2 * ranks, pair=pair)
        found = numbers(name, ranks, 2 * ranks, segments, pair=pair)
        assert found.global_bubble_s * segments == pytest.approx(whole.global_bubble_s)
        streams = 1 if entry(name).chunks == 2 else 2  # of full stages
        held = (parent.peak_memory or (0,))[0] + streams * (segments - 1)
        assert found.peak_memory == pytest.approx((held / segments,) * ranks)


def fits(schedule: Schedule) -> None:
    """Valid in every respect, and split backwards close every rank."""
    validate(schedule)
    validate(add_messages(schedule))
    assert all(row[-1].kind is Kind.W for row in schedule.rows)


@settings(deadline=None, max_examples=40)
@given(ranks=st.integers(1, 6), segments=st.lists(st.integers(1, 4), min_size=6, max_size=14))
def test_segment_counts_may_differ(ranks: int, segments: list[int]) -> None:
    """Valid, or refused with the number of units that is missing."""
    problem = Problem(ranks, len(segments), chunks=2, segments=tuple(segments))
    if sum(segments) >= 2 * ranks + max(segments) - 1:
        fits(build("seq-dualpipe-v", problem))
    else:
        with pytest.raises(ProblemError, match=f"got {sum(segments)}: use microbatches="):
            build("seq-dualpipe-v", problem)
    mirrored = (*segments, *reversed(segments))
    problem = Problem(2 * ranks, len(mirrored), segments=mirrored)
    if sum(segments) >= 2 * ranks + max(segments) - 1:
        fits(build("seq-dualpipe", problem))


@pytest.mark.parametrize(
    ("name", "problem", "way_out"),
    [
        ("dualpipe", Problem(3, 8), "use ranks=4, or dualpipe-v"),
        ("dualpipe", Problem(4, 9), "use microbatches=10 with segments=1"),
        ("dualpipe", Problem(4, 6), "use microbatches=8, or 1f1b"),
        ("dualpipe", Problem(4, 1), "use microbatches=8"),
        (
            "seq-dualpipe",
            Problem(2, 4, segments=(1, 2, 3, 4)),
            "use microbatches=4 with segments=4",
        ),
        ("dualpipe-v", Problem(4, 7, 2), "use microbatches=8, or zb-v"),
        ("seq-dualpipe-v", Problem(4, 2, 2, segments=4), "use microbatches=3"),
    ],
)
def test_refusals(name: str, problem: Problem, way_out: str) -> None:
    """Each says what to change, and that is accepted."""
    with pytest.raises(ProblemError, match=way_out):
        build(name, problem)
