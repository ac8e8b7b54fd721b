"""Timelines as columns of numbers, small enough to stand in the page: about 10 bytes an op."""

import sys
import zlib
from array import array
from base64 import b64encode
from collections.abc import Iterable, Sequence
from math import nan
from typing import Any

from longpipe.ir import Event, Timeline
from longpipe.simulate import Metrics
from longpipe.view.palette import KINDS
from longpipe.view.panel import Lane, Panel, causes, lanes

_FUSED = 1  # flag of the first op of a pair that ran as one


def pack(panels: Sequence[Panel], found: Sequence[Metrics]) -> tuple[list[dict[str, Any]], str]:
    """The panels' heads, as JSON values, and the ops of all of them; `found` are their numbers.

    Ops stand rank by rank, each rank's compute ops first and then what ran beside; the heads
    count them. The text is base64 of zlib of little-endian columns, one after the other: start,
    end (float64), memory, peak, wait (float32, NaN where not known), micro-batch, stage, segment
    (uint32), index of the kind in `KINDS`, flags (uint8).
    """
    heads, events, waits, flags = [], list[Event](), array("f"), bytearray()
    for panel, metrics in zip(panels, found, strict=True):
        drawn = list(lanes(panel.timeline))
        heads.append(_head(panel, metrics, drawn))
        for lane in drawn:
            beside = len(lane.beside)
            events += (*lane.ops, *lane.beside)
            waits.extend(lane.waits or (nan,) * len(lane.ops))
            waits.extend((0.0,) * beside)
            flags += bytes(_flags(lane.ops, panel.timeline)) + bytes(beside)
    return heads, b64encode(zlib.compress(_columns(events, waits, bytes(flags)))).decode()


def _head(panel: Panel, found: Metrics, drawn: Sequence[Lane]) -> dict[str, Any]:
    timeline = panel.timeline
    return {
        "name": timeline.name,
        "source": timeline.source,
        "note": panel.note,
        "group": panel.group,
        "seconds": panel.seconds,
        "makespan": timeline.makespan_s,
        "bubble": found.global_bubble_rate,
        "peaks": found.peak_memory,
        "idle": causes(found),
        "ops": [len(lane.ops) for lane in drawn],
        "beside": [len(lane.beside) for lane in drawn],
    }


def _flags(ops: Sequence[Event], timeline: Timeline) -> Iterable[int]:
    if not timeline.pairs:
        return bytes(len(ops))
    after = [event.op for event in ops[1:]]
    fused = [
        (event.op, second) in timeline.pairs for event, second in zip(ops, after, strict=False)
    ]
    return [_FUSED * one for one in (*fused, *(False,) * (len(ops) - len(fused)))]


def _columns(events: Sequence[Event], waits: "array[float]", flags: bytes) -> bytes:
    numbers = {kind: number for number, kind in enumerate(KINDS)}
    columns: list[array[Any]] = [
        array("d", [event.start_s for event in events]),
        array("d", [event.end_s for event in events]),
        array("f", [nan if event.memory is None else event.memory for event in events]),
        array("f", [nan if event.peak is None else event.peak for event in events]),
        waits,
        array("I", [event.op.mb for event in events]),
        array("I", [event.op.stage for event in events]),
        array("I", [event.op.seg for event in events]),
    ]
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    kinds = bytes(numbers[event.op.kind.value] for event in events)
    return b"".join([*(column.tobytes() for column in columns), kinds, flags])
