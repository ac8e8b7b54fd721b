"""When each op runs, what it waits for, and what its rank holds: the event-driven simulation."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise

from longpipe.ir import (
    Costs,
    Event,
    Op,
    Program,
    Schedule,
    Timeline,
    needs,
    provides,
    to_text,
    walk,
)


def simulate(schedule: Schedule | Program, costs: Costs) -> Timeline:
    """Predict the Timeline of one step.

    An op starts when its rank has run the op before it and all that `needs` names has arrived;
    what another rank made arrives `costs.delay` after its end. Sending takes no time of its rank.
    Of a Program the compute ops count. Ticks are counted as the cost model gives them and turned
    into times at the end. Time and memory grow linearly with the ops. Raises ScheduleError if the
    order can never finish.

    >>> from longpipe.cost import UniformCosts
    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> problem = Problem(ranks=4, microbatches=8)
    >>> simulate(build("1f1b", problem), UniformCosts(problem)).makespan_s
    33.0
    """
    if isinstance(schedule, Program):
        schedule = schedule.schedule()
    with _collector_paused():
        return _run(schedule, costs)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's cycle collector: millions of small tuples and no cycle make it dominate."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _run(schedule: Schedule, costs: Costs) -> Timeline:
    problem, placement = schedule.problem, schedule.placement
    finished: dict[Op, float] = {}  # tick by what an op provides
    free: list[float] = [0] * problem.ranks  # tick at which the rank has run the op before
    rows = [_Row(ops, costs) for ops in schedule.rows]

    for rank, op, needed in walk(schedule.rows, lambda op: needs(op, problem)):
        ready = start = free[rank]
        for need in needed:
            made = finished[need]
            if made > ready:  # comparisons, not max: this loop is most of the time
                ready = made
            if need.stage != op.stage:
                source = placement(need.stage, need.mb)
                if source != rank:
                    arrived = made + costs.delay(need, source, rank)
                    if arrived > start:
                        start = arrived
        start = max(start, ready)
        free[rank] = finished[provides(op)] = rows[rank].run(op, ready, start)

    return Timeline(
        name=title(schedule),
        source="simulated",
        rows=tuple(row.events() for row in rows),
        waits_s=tuple(tuple(wait * costs.tick_s for wait in row.waits) for row in rows),
    )


class _Row:
    """What one rank runs, in ticks; plain lists of numbers, so that a million ops stay cheap."""

    def __init__(self, ops: Sequence[Op], costs: Costs) -> None:
        self.ops, self.costs = ops, costs
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.waits: list[float] = []  # for a message in flight, before each op

    def run(self, op: Op, ready: float, start: float) -> float:
        """Run an op whose inputs were made by `ready` and have arrived at `start`; its end."""
        end = start + self.costs.ticks(op)
        self.starts.append(start)
        self.ends.append(end)
        self.waits.append(start - ready)
        return end

    def events(self) -> tuple[Event, ...]:
        """Times in the cost model's unit, and memory, which depends on the order alone."""
        costs, tick_s, cell = self.costs, self.costs.tick_s, self.costs.cell_bytes
        held = accumulate(map(costs.holds, self.ops), initial=0)
        scratch = map(costs.scratch, self.ops)
        spans = zip(self.ops, self.starts, self.ends, pairwise(held), scratch, strict=True)
        return tuple(
            Event(op, start * tick_s, end * tick_s, after * cell, max(before + extra, after) * cell)
            for op, start, end, (before, after), extra in spans
        )


def title(schedule: Schedule | Program) -> str:
    """Name, size and placement of a schedule in one line, as the text form's header has them.

    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> title(build("1f1b", Problem(ranks=2, microbatches=3)))
    '1f1b ranks=2 microbatches=3'
    """
    head = Schedule(schedule.name, schedule.problem, schedule.placement, rows=())
    return to_text(head).strip().removeprefix("# ir 1 | ")
