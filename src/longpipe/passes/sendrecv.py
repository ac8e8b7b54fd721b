"""Messages: the send and receive of every result that another rank reads."""

from bisect import bisect_left
from typing import NamedTuple

from longpipe.ir import Kind, Op, Program, Schedule, crossing, needs, provides, walk


class _Message(NamedTuple):
    """A message in logical time; sorting puts the RECVs of a channel in the order of its SENDs."""

    sent: int  # logical time at which its producer ends
    source: int
    receive: Op


def add_messages(schedule: Schedule) -> Program:
    """Put a SEND and a RECV at their places wherever a result crosses to another rank.

    SEND stands right after the op that produces the tensor. RECV stands just in time: before the
    op that the receiver runs while the tensor is produced. Stages that are neighbours on one
    rank hand over locally and get no message.

    No deadlock by construction, even where SEND blocks until its RECV is posted: in logical time
    (F, I and W take 1, B takes 2) a RECV starts before its SEND, and every other wait goes
    forward as well.

    The schedule must be valid (see `validate`); raises ScheduleError if its order deadlocks.
    """
    starts, messages = _logical_times(schedule)
    rows = zip(schedule.rows, starts, messages, strict=True)
    return Program(
        schedule.name,
        schedule.problem,
        schedule.placement,
        tuple(_with_messages(schedule, *row) for row in rows),
    )


def _logical_times(schedule: Schedule) -> tuple[list[list[int]], list[list[_Message]]]:
    """Start of each op, and the messages that each rank receives."""
    problem, placement = schedule.problem, schedule.placement
    starts: list[list[int]] = [[] for _ in schedule.rows]
    inbox: list[list[_Message]] = [[] for _ in schedule.rows]
    free = [0] * len(schedule.rows)
    end: dict[Op, int] = {}
    for rank, op, needed in walk(schedule.rows, lambda op: needs(op, problem)):
        start = max(free[rank], *(end[need] for need in needed), 0)
        starts[rank].append(start)
        free[rank] = end[provides(op)] = start + (2 if op.kind is Kind.B else 1)
        if pair := crossing(op, problem, placement):
            receive = pair[1]
            reader = placement(receive.stage, receive.mb)
            inbox[reader].append(_Message(free[rank], rank, receive))
    return starts, inbox


def _with_messages(
    schedule: Schedule, row: tuple[Op, ...], starts: list[int], inbox: list[_Message]
) -> tuple[Op, ...]:
    """One rank's row with its messages."""
    receives: dict[int, list[Op]] = {}  # position of the op that they stand before
    for message in sorted(inbox):
        running = max(bisect_left(starts, message.sent) - 1, 0)
        receives.setdefault(running, []).append(message.receive)
    out: list[Op] = []
    for position, op in enumerate(row):
        out += receives.get(position, ())
        out.append(op)
        if pair := crossing(op, schedule.problem, schedule.placement):
            out.append(pair[0])
    return tuple(out)
