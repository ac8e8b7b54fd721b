"""When each op runs, what it waits for, and what its rank holds: the event-driven simulation."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from longpipe.ir import (
    Costs,
    Event,
    Lane,
    Op,
    Program,
    Schedule,
    Timeline,
    clock,
    row_memory,
    to_text,
)


def simulate(schedule: Schedule | Program, costs: Costs) -> Timeline:
    """Predict the Timeline of one step.

    `longpipe.ir.clock` has the rule. Of a Program the compute ops count. Ticks are counted as the
    cost model gives them and turned into times at the end. Time and memory grow linearly with the
    ops. Raises ScheduleError if the order can never finish.

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
    lanes = clock(schedule, costs)
    tick_s = costs.tick_s
    return Timeline(
        name=title(schedule),
        source="simulated",
        rows=tuple(
            tuple(_events(row, lane, costs)) for row, lane in zip(schedule.rows, lanes, strict=True)
        ),
        waits_s=tuple(tuple(wait * tick_s for wait in lane.waits) for lane in lanes),
        pairs=frozenset(pair for pair in schedule.pairs if costs.pair_ticks(*pair) is not None),
    )


def _events(row: Sequence[Op], lane: Lane, costs: Costs) -> Iterator[Event]:
    """Times in the cost model's unit, and memory, which depends on the order alone."""
    tick_s, cell = costs.tick_s, costs.cell_bytes
    held: float = 0
    spans = zip(row, lane.starts, lane.ends, row_memory(row, costs), strict=True)
    for op, start, end, memory in spans:
        before, held = held, held + memory.holds
        peak = max(before + memory.scratch, held)
        yield Event(op, start * tick_s, end * tick_s, held * cell, peak * cell)


def title(schedule: Schedule | Program) -> str:
    """Name, size and placement of a schedule in one line, as the text form's header has them.

    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> title(build("1f1b", Problem(ranks=2, microbatches=3)))
    '1f1b ranks=2 microbatches=3'
    """
    head = Schedule(schedule.name, schedule.problem, schedule.placement, rows=())
    return to_text(head).strip().removeprefix("# ir 1 | ")
