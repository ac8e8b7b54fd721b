"""The search over orders of a V under a memory limit, with the real costs.

Candidates: building blocks that the limit allows, drawn together at both ends, with their W's as
the block has them or put anew into the idle time that the real costs leave; ZB-V's order; and the
zero-bubble paper's greedy generator. The least cost counts (the longest span of a rank), then the
least makespan. A long run is judged by two short ones: what the second takes more than the first,
more of the steady state takes, too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from longpipe.ir import Costs, Problem, Schedule, v
from longpipe.schedules._streams import Row, Streams, fits, read, run, spell
from longpipe.schedules._v_greedy import greedy
from longpipe.schedules._v_orders import Candidate, from_blocks, zb_v_order

Score = tuple[float, float]
"""Cost and makespan, in ticks."""


def search(problem: Problem, costs: Costs, limit: tuple[float, ...]) -> Schedule | None:
    """The best order found in which rank r never holds more than `limit[r]` cells; None if none."""
    placement = v(problem.ranks)
    whole = read(problem, placement, costs, limit)
    short = [_first(problem, size) for size in _sizes(problem)]
    runs = [whole if each == problem else read(each, placement, costs, limit) for each in short]

    def judged(candidates: Iterable[Candidate]) -> list[tuple[Score, Candidate]]:
        scores = ((_judge(each, runs, problem.microbatches), each) for each in candidates)
        return [(score, each) for score, each in scores if score is not None]

    found = judged((zb_v_order, greedy))
    rounds = 0
    for cap in _caps(whole):
        more = judged(from_blocks(whole, cap))
        found += more
        rounds += bool(more)
        if rounds == 2:  # blocks that hold one unit less are sometimes the better ones
            break
    for _, candidate in sorted(found, key=lambda each: each[0]):
        rows = _right(candidate, whole)
        if rows is not None:
            return spell(rows, problem, placement)
    return None


def _first(problem: Problem, microbatches: int) -> Problem:
    """The problem's first micro-batches."""
    counts = problem.segments
    first = counts[:microbatches] if isinstance(counts, tuple) else counts
    return replace(problem, microbatches=microbatches, segments=first)


def _sizes(problem: Problem) -> tuple[int, ...]:
    """Micro-batches of the runs that candidates are judged by."""
    least = min(problem.segments) if isinstance(problem.segments, tuple) else problem.segments
    short = -(-(4 * problem.ranks + 2 * problem.segments_max + 8) // least)
    longer = short + short // 2
    return (problem.microbatches,) if problem.microbatches <= longer else (short, longer)


def _judge(candidate: Candidate, runs: list[Streams], microbatches: int) -> Score | None:
    """What a candidate costs over so many micro-batches: measured, or in a straight line."""
    found: list[Score] = []
    for each in runs:
        rows = _right(candidate, each)
        result = rows and run(each, rows)
        if not result:
            return None
        found.append((result.cost, result.makespan))
    if len(found) == 1:
        return found[0]
    first, second = (each.problem.microbatches for each in runs)
    ahead = (microbatches - second) / (second - first)
    cost, makespan = (b + ahead * (b - a) for a, b in zip(*found, strict=True))
    return cost, makespan


def _right(candidate: Candidate, problem: Streams) -> list[Row] | None:
    """A candidate's rows, if they stay within the limit."""
    rows = candidate(problem)
    if rows is None or not all(fits(problem, rank, row) for rank, row in enumerate(rows)):
        return None
    return rows


def _caps(whole: Streams) -> Iterator[int]:
    """Units that a rank may hold: first by what their W's free, then by their F's, and fewer.

    What I's free (M_I - M_W in arXiv:2401.10241) makes room that a count of units does not see.
    """
    p, stages, units = whole.problem.ranks, whole.stages, whole.units

    def most(kind: int, rank: int) -> int:
        cells = sum(
            abs(sum(whole.holds[kind * stages + stage])) for stage in (rank, stages - 1 - rank)
        )
        return int(2 * units * whole.limit[rank] / cells) if cells else 2 * units

    by_f = min(most(0, rank) for rank in range(p))
    by_w = min(most(2, rank) for rank in range(p))
    highest = 2 * (p + whole.problem.segments_max - 1)
    if min(by_w, highest) > by_f:
        yield min(by_w, highest)
    yield from range(min(by_f, highest), 1, -1)
