"""The numbers of a Timeline, simulated or measured: bubbles, idle time by reason, peak memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from longpipe.ir import COMPUTE, SHARDING, WEIGHT_GRAD, Event, Kind, Timeline


@dataclass(frozen=True, slots=True)
class Idle:
    """Where the time of one rank went that it did not compute, in seconds (or the cost's unit).

    `communication_s` is time in which all work waited for was done and its message in flight, or
    sharded weights being gathered, or gradients reduced after the last op; None, and part of the
    others, where the Timeline does not know its waits.
    """

    warm_up_s: float  # before the first op
    imbalance_s: float  # between ops, while what the next one needs is computed elsewhere
    communication_s: float | None  # between ops, while what it needs is on its way
    cool_down_s: float  # from the last op, or gradient reduced, to the makespan

    @property
    def total_s(self) -> float:
        """All of it."""
        parts = (self.warm_up_s, self.imbalance_s, self.communication_s or 0, self.cool_down_s)
        return sum(parts)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What `measure` finds. Times in seconds, or the cost model's own unit; lists are per rank.

    Two bubbles, and the name says which. `global_bubble_s` is the largest (makespan - busy time)
    of a rank: right where the step ends together. `span_bubble_s` is the largest (span - busy
    time), with the span from the start of the first F to the end of the last B or W of a rank:
    the zero-bubble papers' metric, right where ranks start their next step on their own.
    The rates divide them by the makespan and by the largest span. `peak_memory` is None where the
    Timeline holds no memory.
    """

    ops: int
    makespan_s: float
    global_bubble_s: float
    global_bubble_rate: float
    span_bubble_s: float
    span_bubble_rate: float
    busy_s: tuple[float, ...]
    idle: tuple[Idle, ...]
    peak_memory: tuple[float, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def measure(timeline: Timeline) -> Metrics:
    """The numbers of a Timeline; compute ops count as busy, messages do not.

    >>> from longpipe.cost import UniformCosts
    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> from longpipe.simulate import simulate
    >>> problem = Problem(ranks=4, microbatches=8)
    >>> found = measure(simulate(build("1f1b", problem), UniformCosts(problem)))
    >>> found.makespan_s, found.global_bubble_s, found.span_bubble_s, found.peak_memory
    (33.0, 9.0, 9.0, (4.0, 3.0, 2.0, 1.0))
    """
    makespan = timeline.makespan_s
    rows = [_computed(timeline, rank) for rank in range(timeline.ranks)]
    busy = [sum(event.end_s - event.start_s for event, _ in row) for row in rows]
    spans = [_span(row) for row in rows]
    bubble = max((makespan - time for time in busy), default=0.0)
    span_bubble = max((s - b for s, b in zip(spans, busy, strict=True)), default=0.0)

    def tidy(time: float) -> float:
        return _tidy(time, makespan)

    return Metrics(
        ops=sum(map(len, rows)),
        makespan_s=tidy(makespan),
        global_bubble_s=tidy(bubble),
        global_bubble_rate=_rate(bubble, makespan),
        span_bubble_s=tidy(span_bubble),
        span_bubble_rate=_rate(span_bubble, max(spans, default=0.0)),
        busy_s=tuple(map(tidy, busy)),
        idle=tuple(
            _idle(row, _reducing(row, events) if timeline.waits_s is not None else None, makespan)
            for row, events in zip(rows, timeline.rows, strict=True)
        ),
        peak_memory=_peaks(timeline),
    )


_Row = list[tuple[Event, float]]  # compute events, each with the wait for messages before it


def _computed(timeline: Timeline, rank: int) -> _Row:
    """Compute events of a rank; waits before a message's event count for the op after it."""
    row: _Row = []
    waited = 0.0
    events = timeline.rows[rank]
    waits = timeline.waits_s[rank] if timeline.waits_s is not None else (0.0,) * len(events)
    for event, wait in zip(events, waits, strict=True):
        waited += wait
        if event.op.kind in COMPUTE:
            row.append((event, waited))
            waited = 0.0
    return row


def _span(row: _Row) -> float:
    """From the start of the first F to the end of the last B or W of a rank."""
    starts = [event.start_s for event, _ in row if event.op.kind is Kind.F]
    ends = [event.end_s for event, _ in row if event.op.kind in WEIGHT_GRAD]
    return max(ends) - min(starts) if starts and ends else 0.0


def _reducing(row: _Row, events: tuple[Event, ...]) -> float:
    """Time after the rank's last compute op until its gradients are reduced."""
    ends = (event.end_s for event in events if event.op.kind in SHARDING)
    return max(max(ends, default=0.0) - row[-1][0].end_s, 0.0) if row else 0.0


def _idle(row: _Row, reducing: float | None, makespan: float) -> Idle:
    """By reason; `reducing` is None where the Timeline does not know its waits."""
    if not row:
        return Idle(_tidy(makespan, makespan), 0.0, None if reducing is None else 0.0, 0.0)
    gaps = list(_gaps(row))
    flying = sum(wait for _, wait in gaps)
    after = reducing or 0.0
    return Idle(
        warm_up_s=_tidy(row[0][0].start_s, makespan),
        imbalance_s=_tidy(sum(gap for gap, _ in gaps) - flying, makespan),
        communication_s=None if reducing is None else _tidy(flying + after, makespan),
        cool_down_s=_tidy(makespan - row[-1][0].end_s - after, makespan),
    )


def _gaps(row: _Row) -> Iterator[tuple[float, float]]:
    """Every gap between two ops, and the share of it in which a message was in flight."""
    for (before, _), (after, wait) in pairwise(row):
        gap = max(after.start_s - before.end_s, 0.0)
        yield gap, min(wait, gap)


def _peaks(timeline: Timeline) -> tuple[float, ...] | None:
    rows = [
        [memory for event in row for memory in (event.memory, event.peak) if memory is not None]
        for row in timeline.rows
    ]
    if not any(rows):
        return None
    peaks = [max(row, default=0.0) for row in rows]
    return tuple(_tidy(peak, max(peaks)) for peak in peaks)


def _rate(part: float, whole: float) -> float:
    return _tidy(part / whole, 1.0) if whole else 0.0


def small_fraction(value: float, scale: float) -> Fraction | None:
    """The fraction of small denominator that a float stands for, if it is within 1e-12 of scale.

    >>> small_fraction(0.1 + 0.2, scale=1.0), small_fraction(0.123456789, scale=1.0)
    (Fraction(3, 10), None)
    """
    near = Fraction(value).limit_denominator(10_000)
    return near if abs(near - Fraction(value)) <= scale * 1e-12 else None


def _tidy(value: float, scale: float) -> float:
    """Undo rounding: 28.5, not 28.499999999999996."""
    near = small_fraction(value, scale)
    return float(value if near is None else near)
