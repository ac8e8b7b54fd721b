"""Rows as streams: what blocks are spelled from, and what the searches over a V work on.

A *stream* is one kind of op on one stage, run in a fixed order: F's by micro-batch and segment, I's
micro-batches in order with the segments of each last to first, W's as their I's. With S stages,
stream s is F of stage s, S + s its I, 2S + s its W. A row of streams is then a rank's order: the
n-th time that a stream occurs is its unit n. Where backwards are full, stream S + s is B.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from longpipe.ir import Costs, Kind, Op, Placement, Problem, Schedule

Row = list[int]  # streams, one for each op of a rank


@dataclass(frozen=True, slots=True)
class Streams:
    """Costs of every op, by stream and unit, and the cells that each rank may hold.

    `delay` is for the rank of the stage that waits. `own[i]` is the F unit whose backward is
    backward unit i.
    """

    problem: Problem
    placement: Placement
    ticks: list[list[float]]
    delay: list[list[float]]
    holds: list[list[float]]
    own: list[int]
    limit: tuple[float, ...]

    @property
    def stages(self) -> int:
        """Stages of the whole model."""
        return self.problem.stages

    @property
    def units(self) -> int:
        """Segments of all micro-batches."""
        return len(self.own)

    def cells(self, kind: int, rank: int) -> float:
        """Mean cells that a rank's ops of a kind (0: F, 1: I, 2: W) hold or free."""
        stages = [stage for stage in range(self.stages) if self.placement(stage, 0) == rank]
        cells = sum(sum(self.holds[kind * self.stages + stage]) for stage in stages)
        return abs(cells) / (len(stages) * self.units)


def read(problem: Problem, placement: Placement, costs: Costs, limit: tuple[float, ...]) -> Streams:
    """Ask the cost model once for each op."""
    stages = problem.stages
    forward, backward = problem.units(), problem.backward_units()
    rank = [placement(stage, 0) for stage in range(stages)]
    ticks, delay, holds = [], [], []
    for kind, units, step in ((Kind.F, forward, 1), (Kind.I, backward, -1), (Kind.W, backward, 0)):
        for stage in range(stages):
            ops = [Op(kind, stage, mb, seg) for mb, seg in units]
            ticks.append(list(map(costs.ticks, ops)))
            holds.append(list(map(costs.holds, ops)))
            source, goal = rank[stage], rank[min(max(stage + step, 0), stages - 1)]
            local = source == goal
            delay.append([0 if local else costs.delay(op, source, goal) for op in ops])
    at = {unit: index for index, unit in enumerate(forward)}
    return Streams(problem, placement, ticks, delay, holds, [at[unit] for unit in backward], limit)


@dataclass(frozen=True, slots=True)
class Run:
    """Starts and ends of rows in ticks, by rank and position."""

    starts: list[list[float]]
    ends: list[list[float]]

    @property
    def makespan(self) -> float:
        """End of the last op."""
        return max(row[-1] for row in self.ends)

    @property
    def cost(self) -> float:
        """The zero-bubble papers' cost: the longest time from a rank's first op to its last."""
        return max(
            ends[-1] - starts[0] for starts, ends in zip(self.starts, self.ends, strict=True)
        )


def run(streams: Streams, rows: Sequence[Sequence[int]]) -> Run | None:
    """Every op as early as its rank and its inputs allow; None if the rows cannot go on."""
    stages, own = streams.stages, streams.own
    ends: list[list[float]] = [[] for _ in range(3 * stages)]  # by stream
    at = [0] * len(rows)
    result = Run([[] for _ in rows], [[] for _ in rows])
    waiting: dict[int, int] = {}  # stream -> rank that waits for its next unit
    ready = list(range(len(rows)))
    while ready:
        rank = ready.pop()
        row = rows[rank]
        row_starts, row_ends = result.starts[rank], result.ends[rank]
        free = row_ends[-1] if row_ends else 0
        for position in range(at[rank], len(row)):
            stream = row[position]
            done = ends[stream]
            unit = len(done)
            source = -1
            if stream < stages:
                source = stream - 1
            elif stream < 2 * stages:
                if len(ends[stream - stages]) <= own[unit]:
                    return None
                source = stream + 1 if stream + 1 < 2 * stages else -1
            elif len(ends[stream - stages]) <= unit:
                return None
            start = free
            if source >= 0:
                made = ends[source]
                if len(made) <= unit:
                    waiting[source] = rank
                    at[rank] = position
                    break
                start = max(start, made[unit] + streams.delay[source][unit])
            free = start + streams.ticks[stream][unit]
            row_starts.append(start)
            row_ends.append(free)
            done.append(free)
            if stream in waiting:
                ready.append(waiting.pop(stream))
        else:
            at[rank] = len(row)
    return result if all(map(len, rows)) and not waiting else None


def fits(streams: Streams, rank: int, row: Sequence[int]) -> bool:
    """Whether a rank stays within its limit."""
    units = [0] * len(streams.ticks)
    held: float = 0
    limit = streams.limit[rank]
    for stream in row:
        held += streams.holds[stream][units[stream]]
        units[stream] += 1
        if held > limit:
            return False
    return True


def spell(
    rows: Iterable[Iterable[int]], problem: Problem, placement: Placement, *, full: bool = False
) -> Schedule:
    """The schedule that rows of streams stand for."""
    stages = problem.stages
    forward, backward = problem.units(), problem.backward_units()
    kinds = (Kind.F, Kind.B if full else Kind.I, Kind.W)

    def ops(row: Iterable[int]) -> Iterator[Op]:
        units = [iter(forward if stream < stages else backward) for stream in range(3 * stages)]
        for stream in row:
            kind, stage = divmod(stream, stages)
            mb, seg = next(units[stream])
            yield Op(kinds[kind], stage, mb, seg)

    return Schedule("", problem, placement, tuple(tuple(ops(row)) for row in rows))
