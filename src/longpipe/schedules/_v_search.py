"""The search over orders of a V under a memory limit, with the real costs.

Candidates: the published orders; building blocks that the limit allows, drawn together at both
ends, with their W's as the block has them or put anew into the idle time that the real costs leave.
In short problems single ops of the best are moved at last. Least cost wins (the longest span of a
rank), then least makespan, among what is no worse than any published order by either. A long run is
judged by two short ones: what the second takes more than the first, more steady state takes, too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from math import inf
from operator import gt

from longpipe.ir import Costs, Problem, Schedule, v
from longpipe.schedules._streams import Row, Run, Streams, fits, read, run, spell
from longpipe.schedules._v_greedy import greedy
from longpipe.schedules._v_improve import improve
from longpipe.schedules._v_orders import Candidate, block_orders, published, zb_v_cells

_EFFORT = 250_000  # ops that the last step may simulate from each start,
_FEWEST, _MOST = 50, 800  # in at least and at most so many runs
_ROUNDS, _OPS = 24, 2_500  # caps that are tried: so many by the ranks, or by the ops; at least two
_VARIED = 4  # blocks of each cap whose variants are tried


@dataclass(frozen=True, slots=True)
class _Judged:
    """A candidate with its cost and makespan, in ticks."""

    cost: float
    makespan: float
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class _Goal:
    """Lowest cost and lowest makespan of the published orders that fit, in ticks."""

    cost: float
    makespan: float

    def score(self, result: Run | _Judged) -> tuple[float, ...]:
        """Less is better: no more than the published orders by either number, then less cost."""
        excess = max(result.cost - self.cost, 0) + max(result.makespan - self.makespan, 0)
        return excess, result.cost, result.makespan


def search(problem: Problem, costs: Costs, limit: tuple[float, ...]) -> Schedule | None:
    """The best order found in which rank r never holds more than `limit[r]` cells; None if none."""
    placement = v(problem.ranks)
    whole = read(problem, placement, costs, limit)
    short = [_first(problem, size) for size in _sizes(problem)]
    runs = [whole if each == problem else read(each, placement, costs, limit) for each in short]

    def judged(candidates: Iterable[Candidate]) -> list[_Judged]:
        found = (_judge(each, runs, problem.microbatches) for each in candidates)
        return [each for each in found if each is not None]

    def tried(cap: int) -> list[_Judged]:
        orders = block_orders(whole, cap)
        first = {each: judged((each.tight,)) for each in orders}
        best = sorted(orders, key=lambda each: min(map(goal.score, first[each]), default=(inf,)))
        more = (variant for each in best[:_VARIED] for variant in each.variants())
        return [*chain.from_iterable(first.values()), *judged(more)]

    known = judged(published(whole))
    goal = _Goal(
        min((each.cost for each in known), default=inf),
        min((each.makespan for each in known), default=inf),
    )
    rows = _ideal(whole, goal, known)
    if rows is None:
        if any(map(gt, limit, zb_v_cells(whole))):
            known += judged((greedy,))
        rounds = ((cap, found) for cap in _caps(whole) if (found := tried(cap)))
        most = max(2, min(_ROUNDS // problem.ranks, _OPS // _ops(whole)))
        rows = _best(whole, goal, known, list(islice(rounds, most)))
    return None if rows is None else spell(rows, problem, placement)


def _ideal(whole: Streams, goal: _Goal, known: list[_Judged]) -> list[Row] | None:
    """Rows of a published order, none better by makespan, in which the busiest rank never idles."""
    best = min(known, key=goal.score, default=None)
    if best is None or best.makespan > goal.makespan:
        return None
    busy = [sum(map(sum, whole.ticks[stage :: whole.stages])) for stage in range(whole.stages)]
    busiest = max(down + up for down, up in zip(busy, reversed(busy), strict=True))
    return _right(best.candidate, whole) if best.cost <= busiest else None


def _best(
    whole: Streams, goal: _Goal, known: list[_Judged], rounds: list[tuple[int, list[_Judged]]]
) -> list[Row] | None:
    """The best rows; of a short problem also those that moving single ops leads to.

    Ops are moved under the limit and again under lower ones, as a search with those would do: so
    that more memory does not lead to a worse order.
    """
    runs = min(_EFFORT // _ops(whole), _MOST)
    if runs < _FEWEST:
        found = sorted([*known, *(each for _, more in rounds for each in more)], key=goal.score)
        right = (_right(each.candidate, whole) for each in found)
        return next((rows for rows in right if rows is not None), None)
    better = []
    for (cap, found), (_, lower) in pairwise([*(rounds or [(0, [])]), (0, [])]):
        under = _lower(whole, rounds[0][0] - cap if rounds else 0)
        pool = sorted([*known, *found, *lower], key=goal.score)
        starts = [*pool[:2], *sorted(pool, key=lambda e: (e.makespan, e.cost))[:1], *known[-1:]]
        for each in {id(each): each for each in starts}.values():
            rows = _right(each.candidate, under)
            if rows is not None:
                better.append(improve(under, rows, goal.score, runs))
    return min(better)[1] if better else None


def _ops(whole: Streams) -> int:
    return sum(map(len, whole.ticks))


def _lower(whole: Streams, units: int) -> Streams:
    """The same under a limit that is lower by so many units, of mean size."""
    if not units:
        return whole
    limit = (cells - units * whole.cells(0, rank) for rank, cells in enumerate(whole.limit))
    return replace(whole, limit=tuple(limit))


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


def _judge(candidate: Candidate, runs: list[Streams], microbatches: int) -> _Judged | None:
    """What a candidate costs over so many micro-batches: measured, or in a straight line."""
    found: list[tuple[float, float]] = []
    for each in runs:
        rows = _right(candidate, each)
        result = rows and run(each, rows)
        if not result:
            return None
        found.append((result.cost, result.makespan))
    cost, makespan = found[-1]
    if len(found) == 2:
        first, second = (each.problem.microbatches for each in runs)
        ahead = (microbatches - second) / (second - first)
        cost, makespan = (b + ahead * (b - a) for a, b in zip(*found, strict=True))
    return _Judged(cost, makespan, candidate)


def _right(candidate: Candidate, problem: Streams) -> list[Row] | None:
    """A candidate's rows, if they stay within the limit."""
    rows = candidate(problem)
    if rows is None or not all(fits(problem, rank, row) for rank, row in enumerate(rows)):
        return None
    return rows


def _caps(whole: Streams) -> Iterator[int]:
    """Units that a rank may hold: by what W's free, by what F's hold, then fewer and fewer.

    What I's free (M_I - M_W in arXiv:2401.10241) makes room that counting F's until their W's does
    not see. More than twice V-ZB's units are not tried; with equal costs V-ZB's are enough.
    """
    largest = 4 * (whole.problem.ranks + whole.problem.segments_max - 1)

    def most(kind: int) -> int:
        """What the limit allows if a unit counts as much as an op of a kind holds or frees."""
        cells = [whole.cells(kind, rank) for rank in range(whole.problem.ranks)]
        rooms = zip(whole.limit, cells, strict=True)
        return int(min(limit / each if each else largest for limit, each in rooms))

    by_f, by_w = min(most(0), largest), min(most(2), largest)
    if by_w > by_f:
        yield by_w
    yield from range(by_f, 1, -1)
