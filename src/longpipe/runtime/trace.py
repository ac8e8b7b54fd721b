"""The measured Timeline: every rank's events on one clock, at rank 0."""

import json
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from longpipe.ir import Event, Op, Program, Timeline, needs, provides
from longpipe.runtime.processes import Identity
from longpipe.runtime.store import Store, exchange

_ROUNDS = 16


def clock_offset_s(store: Store, rank: int, ranks: int, *, machine: str | None = None) -> float:
    """Seconds to add to this rank's `perf_counter` to get rank 0's; every rank calls it once.

    Processes of one machine share the kernel's monotonic clock: 0. A rank on another machine asks
    rank 0 for the time through the store and takes the answer for the middle of its round trip
    (Cristian's algorithm), of 16 rounds the quickest: wrong by at most half that round trip.
    `machine` overrides what identifies this machine.
    """
    own = Identity.own().machine if machine is None else machine
    machines = exchange(store, "clock/machine", rank, ranks, own)
    remote = [r for r in range(1, ranks) if not machines[0] or machines[r] != machines[0]]
    if rank == 0:
        for other in remote:
            for turn in range(_ROUNDS):
                store.get(f"clock/ask/{other}/{turn}")
                store.set(f"clock/tell/{other}/{turn}", repr(perf_counter()))
    return _ask(store, rank) if rank in remote else 0.0


def _ask(store: Store, rank: int) -> float:
    rounds = []
    for turn in range(_ROUNDS):
        begin_s = perf_counter()
        store.set(f"clock/ask/{rank}/{turn}", "")
        theirs_s = float(store.get(f"clock/tell/{rank}/{turn}"))
        end_s = perf_counter()
        rounds.append((end_s - begin_s, theirs_s - (begin_s + end_s) / 2))
    return min(rounds)[1]


def gather_timeline(
    program: Program,
    events: Sequence[Event],
    store: Store,
    rank: int,
    *,
    key: str,
    offset_s: float = 0.0,
) -> Timeline | None:
    """All ranks' events of one step as a Timeline at rank 0 (None elsewhere).

    Every rank calls it with its `StepResult.events()`, a `key` that no other call has (such as
    the step), and its `clock_offset_s`. Time 0 is the start of the first op on any rank.
    """
    if rank:
        store.set(f"trace/{key}/{rank}", _to_json(events, offset_s))
        return None
    rows = [tuple(events)]
    for other in range(1, program.problem.ranks):
        name = f"trace/{key}/{other}"
        rows.append(_from_json(store.get(name)))
        store.delete_key(name)
    return timeline_of(program, rows)


def timeline_of(program: Program, rows: Sequence[Sequence[Event]]) -> Timeline:
    """A measured Timeline from events on one clock; says how long each op waited for a message."""
    zero_s = min((row[0].start_s for row in rows if row), default=0.0)
    shifted = tuple(
        tuple(e._replace(start_s=e.start_s - zero_s, end_s=e.end_s - zero_s) for e in row)
        for row in rows
    )
    made = {
        provides(event.op): (rank, event.end_s) for rank, row in enumerate(shifted) for event in row
    }
    waits_s = tuple(
        tuple(
            _in_flight_s(program, rank, event, row[i - 1].end_s if i else 0.0, made)
            for i, event in enumerate(row)
        )
        for rank, row in enumerate(shifted)
    )
    return Timeline(program.name, "measured", shifted, waits_s)


def _in_flight_s(
    program: Program,
    rank: int,
    event: Event,
    free_s: float,
    made: dict[Op, tuple[int, float]],
) -> float:
    """Of the gap before an event, what came after its message had been made on another rank."""
    ends = [
        end_s
        for need in needs(event.op, program.problem)
        for source, end_s in [made[need]]
        if source != rank
    ]
    return max(0.0, event.start_s - max(free_s, *ends)) if ends else 0.0


def _to_json(events: Sequence[Event], offset_s: float) -> str:
    rows: list[Any] = [
        [str(op), start_s + offset_s, end_s + offset_s, memory, peak]
        for op, start_s, end_s, memory, peak in events
    ]
    return json.dumps(rows)


def _from_json(text: bytes) -> tuple[Event, ...]:
    return tuple(Event(Op.parse(op), *rest) for op, *rest in json.loads(text))
