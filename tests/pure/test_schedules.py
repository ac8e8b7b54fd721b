"""Every registered schedule: right on the whole grid, or refused with the way out."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule, needs, walk
from longpipe.schedules import build, entries, entry
from longpipe.schedules._registry import schedule as register

UNEVEN = ("gpipe", "seq1f1b", "seq-zb-h1", "seq-zb-h2", "looped-bfs")


def check(schedule: Schedule, splits: bool) -> None:
    """Walks to its end; each op exactly once, on the rank where the placement has it."""
    problem = schedule.problem
    assert sum(1 for _ in walk(schedule.rows, lambda op: needs(op, problem))) == schedule.ops
    halves = {Kind.B: (Kind.I, Kind.W)} if splits else {}  # some split a part of the backwards
    kinds = (Kind.F, Kind.I, Kind.W) if splits else (Kind.F, Kind.B)
    wanted = Counter(Op(kind, *slot) for slot in problem.unit_slots() for kind in kinds)
    found = Counter(
        op._replace(kind=kind) for _, _, op in schedule for kind in halves.get(op.kind, (op.kind,))
    )
    assert found == wanted
    assert not splits or any(op.kind is Kind.I for _, _, op in schedule)
    for rank, _, op in schedule:
        assert schedule.placement(op.stage, op.mb) == rank


def test_complete_and_in_order(schedule_name: str, schedules: tuple[Schedule, ...]) -> None:
    assert schedules
    for schedule in schedules:
        assert schedule.name == schedule_name
        check(schedule, entry(schedule_name).splits)


def test_refusal_says_what_to_change(schedule_name: str, problems: tuple[Problem, ...]) -> None:
    refusals = []
    for problem in problems:
        try:
            build(schedule_name, problem)
        except ProblemError as error:
            refusals.append(str(error))
    assert refusals
    for text in refusals:
        assert schedule_name in text
        assert re.search(r"use |set ", text), text


@pytest.mark.parametrize(
    "name", ["interleaved", "seq1f1b-interleaved", "zb-interleaved", "seq-zb-interleaved"]
)
def test_the_advised_numbers_are_accepted(name: str, problems: tuple[Problem, ...]) -> None:
    """What a refusal advises must not be refused in its turn."""
    for problem in problems:
        if problem.chunks < 2 or (not entry(name).segments and problem.segments != 1):
            continue
        try:
            build(name, problem)
        except ProblemError as error:
            for field, value in re.findall(r"(\w+)=(\d+)", str(error).split(": use")[1]):
                sizes = {"microbatches": problem.microbatches, "segments": problem.segments}
                build(
                    name,
                    Problem(problem.ranks, chunks=problem.chunks, **sizes | {field: int(value)}),
                )


def test_segment_schedules_equal_their_parents_with_one_segment(
    problems: tuple[Problem, ...],
) -> None:
    parents = {
        "seq1f1b": "1f1b",
        "seq-zb-h1": "zb-h1",
        "seq-zb-h2": "zb-h2",
        "seq-zb-auto": "zb-auto",
        "seq-zb-interleaved": "zb-interleaved",
        "seq1f1b-interleaved": "interleaved",
        "seq-chronos": "chronos",
        "seq-dualpipe": "dualpipe",
        "seq-dualpipe-v": "dualpipe-v",
    }
    for child, parent in parents.items():
        for problem in problems:
            if problem.segments == 1:
                try:
                    rows = build(parent, problem).rows
                except ProblemError:
                    continue
                assert build(child, problem).rows == rows


@pytest.mark.parametrize("name", UNEVEN)
@settings(deadline=None, max_examples=60)
@given(ranks=st.integers(1, 8), segments=st.lists(st.integers(1, 6), min_size=1, max_size=9))
def test_segment_counts_may_differ(name: str, ranks: int, segments: list[int]) -> None:
    chunks = 2 if name == "looped-bfs" else 1
    problem = Problem(ranks, len(segments), chunks, tuple(segments))
    schedule = build(name, problem)
    check(schedule, entry(name).splits)
    if name.startswith("seq"):  # no rank ever holds more segments than the formula allows
        for rank, row in enumerate(schedule.rows):
            live = peak = 0
            for op in row:
                live += {Kind.F: 1, Kind.I: 0}.get(op.kind, -1)
                peak = max(peak, live)
            lead = {"seq-zb-h1": ranks, "seq-zb-h2": 2 * ranks - 1}.get(name, ranks - rank)
            assert peak == min(lead + max(segments) - 1, sum(segments))


def test_interleaving_over_uneven_counts_is_refused() -> None:
    with pytest.raises(ProblemError, match="same number of segments"):
        build("seq1f1b-interleaved", Problem(2, 2, chunks=2, segments=(2, 3)))


def test_a_count_for_each_micro_batch_may_be_spelled_out() -> None:
    spelled = build("seq1f1b-interleaved", Problem(2, 2, chunks=2, segments=(3, 3)))
    assert spelled.rows == build("seq1f1b-interleaved", Problem(2, 2, 2, segments=3)).rows


def test_names_titles_and_papers() -> None:
    assert {entry.name for entry in entries()} >= {
        "gpipe",
        "1f1b",
        "interleaved",
        "looped-bfs",
        "seq1f1b",
        "seq1f1b-interleaved",
        "zb-h1",
        "zb-v",
        "seq-zb-h1",
    }
    for each in entries():
        assert each.title
        assert each.paper
        assert each.bubble
        assert each.peak
        assert all(entry(alias) is each for alias in each.aliases)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ProblemError, match="did you mean seq1f1b"):
        build("seq1fb", Problem(2, 2))


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="two schedules are called 'zb-v'"):
        register("mine", title="", paper="", aliases=("zb-v",))(lambda problem: None)
