"""What is shown: timelines, each with the words that say where its numbers come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from longpipe.ir import COMPUTE, Event, Kind, Timeline
from longpipe.simulate import Metrics


class Align(StrEnum):
    """How timelines of different makespan share one axis."""

    TIME = "time"  # one scale for all: the longest fills the width
    MAKESPAN = "makespan"  # each fills the width: shapes are compared, not times


@dataclass(frozen=True, slots=True)
class Panel:
    """A timeline on a page or picture.

    `note` says where the times come from. Panels of one `group` are drawn rank by rank, one below
    the other: planned above measured. `seconds` says that times are seconds and memory bytes;
    else both are in a cost model's own unit, and have none.
    """

    timeline: Timeline
    note: str = ""
    group: int = 0
    seconds: bool = False


def of_run(timelines: Sequence[Timeline], note: str = "", group: int = 0) -> tuple[Panel, ...]:
    """Panels of what one run left behind, the plan above what was measured."""
    seconds = any(timeline.source == "measured" for timeline in timelines)
    return tuple(Panel(timeline, note, group, seconds) for timeline in timelines)


def default_align(panels: Sequence[Panel]) -> Align:
    """One time scale, unless some count in seconds and others do not."""
    return Align.TIME if len({panel.seconds for panel in panels}) < 2 else Align.MAKESPAN


def title(panels: Sequence[Panel]) -> str:
    """The names of all timelines, once each."""
    names = dict.fromkeys(panel.timeline.name for panel in panels)
    return " | ".join(names) or "no timeline"


class Lane(NamedTuple):
    """One rank of a timeline: its compute ops in order, the wait before each, what ran beside.

    A wait for messages before an event that is not drawn counts for the op after it; None where
    the timeline does not know its waits.
    """

    ops: tuple[Event, ...]
    waits: tuple[float, ...] | None
    beside: tuple[Event, ...]


_BESIDE = (Kind.UNSHARD, Kind.REDUCE_GRAD)


def lanes(timeline: Timeline) -> Iterator[Lane]:
    """What is drawn of each rank; messages are not."""
    for rank, row in enumerate(timeline.rows):
        beside = tuple(event for event in row if event.op.kind in _BESIDE)
        if timeline.waits_s is None:
            yield Lane(tuple(e for e in row if e.op.kind in COMPUTE), None, beside)
            continue
        ops, waits, waited = [], [], 0.0
        for event, wait in zip(row, timeline.waits_s[rank], strict=True):
            waited += wait
            if event.op.kind in COMPUTE:
                ops.append(event)
                waits.append(waited)
                waited = 0.0
        yield Lane(tuple(ops), tuple(waits), beside)


def causes(found: Metrics) -> list[tuple[float, float, float, float]]:
    """Idle time of each rank: warm-up, imbalance, in flight, cool-down."""
    return [
        (idle.warm_up_s, idle.imbalance_s, idle.communication_s or 0.0, idle.cool_down_s)
        for idle in found.idle
    ]
