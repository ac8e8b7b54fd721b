"""The timing rule, written once: when each op starts and ends, under a cost model."""

from typing import NamedTuple

from longpipe.ir.costs import Costs
from longpipe.ir.deps import needs, provides
from longpipe.ir.kind import SHARDING, WEIGHT_GRAD, Kind
from longpipe.ir.op import Op
from longpipe.ir.schedule import Schedule
from longpipe.ir.walk import Needs, walk


class Lane(NamedTuple):
    """One rank's ticks, op by op.

    `waits` is the time before each op for what is in flight: a message, or gathered weights.
    """

    starts: list[float]
    ends: list[float]
    waits: list[float]


def clock(schedule: Schedule, costs: Costs) -> tuple[Lane, ...]:
    """Run a schedule as soon as possible; a lane for each rank.

    An op starts when its rank has run the op before it and all that `needs` names has arrived;
    what another rank made arrives `costs.delay` after its end. Sending takes no time of its rank.
    A fused pair (see `Costs.pair_ticks`) starts when both its ops can, and both results are there
    at its end; its lane shows the two one after the other. UNSHARD and REDUCE_GRAD take their
    `costs.shard_ticks` beside the rank's compute, one after the other; a stage's next op waits for
    its UNSHARD. Time and memory grow linearly with the ops. Raises ScheduleError if the order can
    never finish.

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
    shards = _Shards(schedule.problem.ranks, costs)

    for rank, op, needed in walk(schedule.rows, _needs(schedule, fused)):
        ready = start = free[rank]
        if not needed and op.kind in SHARDING:
            shards.run(lanes[rank], rank, op, start)
            continue
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
        if shards.whole:
            other = fused[op][0] if op in fused else op
            start = max(start, shards.since(rank, op), shards.since(rank, other))
        end = done = start + costs.ticks(op)
        if fused:
            end, done = _pair_end(op, start, end, fused, pair_ends)
        free[rank] = end
        finished[provides(op)] = done
        lane = lanes[rank]
        lane.starts.append(start)
        lane.ends.append(end)
        lane.waits.append(start - ready)
    return lanes


class _Shards:
    """What runs beside each rank's compute: gathers and reductions, in the order of its row."""

    def __init__(self, ranks: int, costs: Costs) -> None:
        self._costs = costs
        self._free: list[float] = [0] * ranks
        self.whole: dict[tuple[int, int], float] = {}  # end of the last gather by (rank, stage)

    def since(self, rank: int, op: Op) -> float:
        """Tick from which the rank has the weights that the op reads."""
        return self.whole.get((rank, op.stage), 0)

    def run(self, lane: Lane, rank: int, op: Op, issued: float) -> None:
        """Put the op on the lane, not before its rank comes to it at tick `issued`."""
        start = end = issued
        if op.kind is not Kind.RESHARD:
            start = max(issued, self._free[rank])
            end = self._free[rank] = start + self._costs.shard_ticks(op)
        if op.kind is Kind.UNSHARD:
            self.whole[rank, op.stage] = end
        for ticks, tick in zip(lane, (start, end, 0), strict=True):
            ticks.append(tick)


def _fused(schedule: Schedule, costs: Costs) -> dict[Op, tuple[Op, float]]:
    """First op of each pair that the cost model fuses: the second, and the ticks of both."""
    ticks = ((pair, costs.pair_ticks(*pair)) for pair in schedule.pairs)
    return {first: (second, total) for (first, second), total in ticks if total is not None}


def _pair_end(
    op: Op,
    start: float,
    end: float,
    fused: dict[Op, tuple[Op, float]],
    pair_ends: dict[Op, float],
) -> tuple[float, float]:
    """Tick that ends the op on its lane, and that of its result: for both of a pair, the last."""
    if op in fused:
        second, total = fused[op]
        pair_ends[second] = start + total
        return min(end, start + total), start + total
    end = pair_ends.pop(op, end)
    return end, end


def _needs(schedule: Schedule, fused: dict[Op, tuple[Op, float]]) -> Needs:
    """The data-flow rule; the first op of a fused pair waits for what the second needs, too."""
    problem = schedule.problem

    def of(op: Op) -> tuple[Op, ...]:
        own = needs(op, problem)
        return (*own, *needs(fused[op][0], problem)) if op in fused else own

    return of


def makespan_ticks(lanes: tuple[Lane, ...]) -> float:
    """Ticks from 0 to the end of the last op on any rank."""
    return max((max(lane.ends) for lane in lanes if lane.ends), default=0)


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
