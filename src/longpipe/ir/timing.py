"""The timing rule, written once: when each op starts and ends, under a cost model."""

from typing import NamedTuple

from longpipe.ir.costs import Costs
from longpipe.ir.deps import needs, provides
from longpipe.ir.kind import WEIGHT_GRAD, Kind
from longpipe.ir.op import Op
from longpipe.ir.schedule import Schedule
from longpipe.ir.walk import Needs, walk


class Lane(NamedTuple):
    """One rank's ticks, op by op; `waits` is the time for a message in flight before each op."""

    starts: list[float]
    ends: list[float]
    waits: list[float]


def clock(schedule: Schedule, costs: Costs) -> tuple[Lane, ...]:
    """Run a schedule as soon as possible; a lane for each rank.

    An op starts when its rank has run the op before it and all that `needs` names has arrived;
    what another rank made arrives `costs.delay` after its end. Sending takes no time of its rank.
    A fused pair (see `Costs.pair_ticks`) starts when both its ops can, and both results are there
    at its end; its lane shows the two one after the other. Time and memory grow linearly with the
    ops. Raises ScheduleError if the order can never finish.

    >>> from longpipe.ir import EqualCosts, Problem
    >>> from longpipe.schedules import build
    >>> clock(build("1f1b", Problem(ranks=2, microbatches=1)), EqualCosts())[0].ends
    [1, 6]
    """
    placement = schedule.placement
    fused = _fused(schedule, costs)
    pair_ends: dict[Op, float] = {}  # of pairs under way, by their second op
    finished: dict[Op, float] = {}  # tick by what an op provides
    free: list[float] = [0] * schedule.problem.ranks  # tick at which the rank has run the op before
    lanes = tuple(Lane([], [], []) for _ in schedule.rows)

    for rank, op, needed in walk(schedule.rows, _needs(schedule, fused)):
        ready = start = free[rank]
        for need in needed:
            made = finished[need]
            if made > ready:  # comparisons, not max: this loop is most of the time
                ready = made
            if need.stage != op.stage or op in fused:
                source = placement(need.stage, need.mb)
                if source != rank:
                    arrived = made + costs.delay(need, source, rank)
                    if arrived > start:
                        start = arrived
        start = max(start, ready)
        end = done = start + costs.ticks(op)
        if op in fused:
            second, total = fused[op]
            done = pair_ends[second] = start + total
            end = min(end, done)
        elif op in pair_ends:
            end = done = pair_ends.pop(op)
        free[rank] = end
        finished[provides(op)] = done
        lane = lanes[rank]
        lane.starts.append(start)
        lane.ends.append(end)
        lane.waits.append(start - ready)
    return lanes


def _fused(schedule: Schedule, costs: Costs) -> dict[Op, tuple[Op, float]]:
    """First op of each pair that the cost model fuses: the second, and the ticks of both."""
    ticks = ((pair, costs.pair_ticks(*pair)) for pair in schedule.pairs)
    return {first: (second, total) for (first, second), total in ticks if total is not None}


def _needs(schedule: Schedule, fused: dict[Op, tuple[Op, float]]) -> Needs:
    """The data-flow rule; the first op of a fused pair waits for what the second needs, too."""
    problem = schedule.problem

    def of(op: Op) -> tuple[Op, ...]:
        own = needs(op, problem)
        return (*own, *needs(fused[op][0], problem)) if op in fused else own

    return of


def makespan_ticks(lanes: tuple[Lane, ...]) -> float:
    """Ticks from 0 to the end of the last op on any rank."""
    return max((lane.ends[-1] for lane in lanes if lane.ends), default=0)


def cost_ticks(schedule: Schedule, lanes: tuple[Lane, ...]) -> float:
    """The zero-bubble papers' cost: the longest span of a rank.

    A span goes from the start of the rank's first F to the end of its last W or B
    (arXiv:2401.10241, section 5.3); less the busy time it is the span bubble.
    """
    spans = [0.0]
    for row, lane in zip(schedule.rows, lanes, strict=True):
        starts = [at for op, at in zip(row, lane.starts, strict=True) if op.kind is Kind.F]
        ends = [at for op, at in zip(row, lane.ends, strict=True) if op.kind in WEIGHT_GRAD]
        if starts and ends:
            spans.append(max(ends) - min(starts))
    return max(spans)
