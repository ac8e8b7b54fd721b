"""What ops and messages have taken in training, from when each op of the last steps ran.

No message is sent for it, and what is measured is the traffic of training itself. A receiver knows
when it took a message, not when the message lay there: that is the same moment only if it waited.
So the ops count that began later than their rank was free. Every step has some of them on each
link: the first forward of a rank and its last backward wait whatever the order. Clock offsets
(see `trace`) go into a link's two directions with opposite signs, and so cancel where it matters.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from longpipe.cost import Link, Measured, MeasuredCosts, Slot
from longpipe.errors import RunError
from longpipe.ir import Program, Timeline, needs, provides

Ends = tuple[int, int]  # source and destination rank
_IDLE = 0.05  # of a median op: a shorter gap is the runtime's own work, no wait


def observed_costs(program: Program, timelines: Sequence[Timeline]) -> MeasuredCosts:
    """Median seconds of each kind of op by stage and segment, and of each link's messages.

    `timelines` are measured steps of `program`, at least one. A link is a latency whatever the
    size of the message. Bytes are not observed: the costs are for `clock`, not for memory.
    """
    if not timelines:
        raise RunError("no step has been measured: nothing is known of ops and messages")
    times: dict[Slot, list[float]] = {}
    for timeline in timelines:
        for op, start_s, end_s, *_ in (event for row in timeline.rows for event in row):
            times.setdefault(Slot(op.kind, op.stage, op.seg), []).append(end_s - start_s)
    seconds = {slot: median(found) for slot, found in times.items()}
    idle_s = _IDLE * median(seconds.values())
    ops = {slot: Measured(time_s, 0, 0) for slot, time_s in seconds.items()}
    # Step by step first: in a step with late messages there are more of them that were waited for.
    steps = [_latencies(program, timeline, idle_s) for timeline in timelines]
    links = {ends: Link(median(step[ends] for step in steps), 1.0) for ends in steps[0]}
    return MeasuredCosts(ops, (0,) * program.problem.segments_max, links)


def _latencies(program: Program, timeline: Timeline, idle_s: float) -> dict[Ends, float]:
    """Median of the messages that were waited for; where none was, the least that it can be."""
    waited: dict[Ends, list[float]] = {}
    bounds: dict[Ends, list[float]] = {}
    for ends, took_s, gap_s in _messages(program, timeline):
        bounds.setdefault(ends, []).append(took_s)
        if gap_s > idle_s:
            waited.setdefault(ends, []).append(took_s)
    return {
        ends: max(0.0, median(waited[ends]) if ends in waited else min(found))
        for ends, found in bounds.items()
    }


def _messages(program: Program, timeline: Timeline) -> Iterator[tuple[Ends, float, float]]:
    """For each message: its ends, from when it was made until it was used, and its user's gap."""
    made = {
        provides(event.op): (rank, event.end_s)
        for rank, row in enumerate(timeline.rows)
        for event in row
    }
    for rank, row in enumerate(timeline.rows):
        free_s = 0.0
        for event in row:
            for need in needs(event.op, program.problem):
                source, end_s = made[need]
                if source != rank:
                    yield (source, rank), event.start_s - end_s, event.start_s - free_s
            free_s = event.end_s
