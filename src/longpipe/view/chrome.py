"""A trace that chrome://tracing and ui.perfetto.dev open."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from longpipe.ir import INPUT_GRAD, SHARDING, Event, Kind, Op, Timeline, message_of, provides

Record = dict[str, Any]

_MICROSECONDS = 1e6  # the format counts in them


def chrome_trace(timelines: Sequence[Timeline]) -> str:
    """JSON text: a process for each timeline, a thread for each rank, an arrow for each message.

    Gathers and reductions of sharded weights, which run beside the ops, have a thread of their
    own. The memory of a rank, where known, is a counter beside its ops.
    """
    events = [
        record for pid, timeline in enumerate(timelines) for record in _records(pid, timeline)
    ]
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})


def _records(pid: int, timeline: Timeline) -> Iterator[Record]:
    name = f"{timeline.source}: {timeline.name}"
    yield _meta(pid, 0, "process_name", name)
    for rank, row in enumerate(timeline.rows):
        yield _meta(pid, rank, "thread_name", f"rank {rank}")
        beside = timeline.ranks + rank
        if any(event.op.kind in SHARDING for event in row):
            yield _meta(pid, beside, "thread_name", f"rank {rank}: sharded weights")
        for event in row:
            sharding = event.op.kind in SHARDING
            yield _slice(pid, beside if sharding else rank, event)
            if event.memory is not None and not sharding:
                yield _memory(pid, rank, event)
    yield from _arrows(pid, timeline)


def _meta(pid: int, tid: int, name: str, value: str) -> Record:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": {"name": value}}


def _slice(pid: int, tid: int, event: Event) -> Record:
    op = event.op
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "name": str(op),
        "cat": op.kind.value,
        "ts": event.start_s * _MICROSECONDS,
        "dur": (event.end_s - event.start_s) * _MICROSECONDS,
        "args": {"stage": op.stage, "microbatch": op.mb, "segment": op.seg, "peak": event.peak},
    }


def _memory(pid: int, rank: int, event: Event) -> Record:
    return {
        "ph": "C",
        "pid": pid,
        "name": f"memory of rank {rank}",
        "ts": event.end_s * _MICROSECONDS,
        "args": {"held": event.memory},
    }


def _arrows(pid: int, timeline: Timeline) -> Iterator[Record]:
    """From the end of each op, or of its pair, to the start of the one that waits elsewhere."""
    place = {
        provides(event.op): (rank, event) for rank, row in enumerate(timeline.rows) for event in row
    }
    for rank, row in enumerate(timeline.rows):
        for first, second in pairwise(row):
            if (first.op, second.op) in timeline.pairs:
                place[first.op] = rank, first._replace(end_s=second.end_s)
    stages = 1 + max((op.stage for op in place), default=0)
    for number, (rank, event) in enumerate(place.values()):
        reader = _reader(event.op, stages)
        found = place.get(reader) if reader else None
        if found is None or found[0] == rank:
            continue
        target, read = found
        arrow = {"pid": pid, "id": f"{pid}.{number}", "name": "message", "cat": "message"}
        yield {**arrow, "ph": "s", "tid": rank, "ts": event.end_s * _MICROSECONDS}
        yield {**arrow, "ph": "f", "bp": "e", "tid": target, "ts": read.start_s * _MICROSECONDS}


def _reader(op: Op, stages: int) -> Op | None:
    """What the op after a message provides, if this op sends one."""
    message = message_of(op, stages)
    if message is None:
        return None
    kind = Kind.I if op.kind in INPUT_GRAD else Kind.F
    return Op(kind, message[1].stage, op.mb, op.seg)
