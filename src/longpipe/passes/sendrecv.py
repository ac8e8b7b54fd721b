"""Messages: the send and receive of every result that another rank reads."""

from bisect import bisect_left
from typing import NamedTuple

from longpipe.ir import Kind, Op, Program, Schedule, crossing, needs, provides, walk


class _Message(NamedTuple):
    """A message to one rank; sorting puts the RECVs of a channel in the order of its SENDs."""

    sent: int  # logical time at which its producer ends
    source: int
    receive: Op


class _Line(NamedTuple):
    """What one rank's messages hang on."""

    ends: list[int]  # logical time at which each op ends
    sends: list[Op | None]  # what follows each op
    inbox: list[_Message]


def add_messages(schedule: Schedule) -> Program:
    """Put a SEND and a RECV at their places wherever a result crosses to another rank.

    SEND stands right after the op that produces the tensor. RECV stands just in time: before the
    first op of the receiver that does not end before the tensor is sent, in logical time (F, I
    and W take 1, B takes 2). Stages that are neighbours on one rank hand over locally and get no
    message.

    No deadlock by construction, even where SEND blocks until its RECV is posted: all that stands
    before a RECV ends before its SEND starts, and every other wait goes forward in time as well.

    The schedule must be valid (see `validate`); raises ScheduleError if its order deadlocks.

    >>> from longpipe.ir import Problem, loop
    >>> rows = ((Op.parse("0F0"), Op.parse("0B0")), (Op.parse("1F0"), Op.parse("1B0")))
    >>> program = add_messages(Schedule("", Problem(ranks=2, microbatches=1), loop(2), rows))
    >>> [" ".join(map(str, row)) for row in program.rows]
    ['0F0 0SEND_F0 0RECV_B0 0B0', '1RECV_F0 1F0 1B0 1SEND_B0']
    """
    lines = _logical_times(schedule)
    rows = tuple(_with_messages(*pair) for pair in zip(schedule.rows, lines, strict=True))
    return Program(schedule.name, schedule.problem, schedule.placement, rows, schedule.pairs)


def _logical_times(schedule: Schedule) -> list[_Line]:
    """Run the schedule in logical time, and note every message."""
    problem, placement = schedule.problem, schedule.placement
    lines = [_Line([], [], []) for _ in schedule.rows]
    free = [0] * len(schedule.rows)
    ends: dict[Op, int] = {}
    for rank, op, needed in walk(schedule.rows, lambda op: needs(op, problem)):
        start = max((ends[need] for need in needed), default=0)
        start = max(start, free[rank])
        end = start + (2 if op.kind is Kind.B else 1)
        free[rank] = ends[provides(op)] = end
        pair = crossing(op, problem, placement)
        lines[rank].ends.append(end)
        lines[rank].sends.append(pair and pair[0])
        if pair:
            receive = pair[1]
            reader = placement(receive.stage, receive.mb)
            lines[reader].inbox.append(_Message(end, rank, receive))
    return lines


def _with_messages(row: tuple[Op, ...], line: _Line) -> tuple[Op, ...]:
    """One rank's row with its messages."""
    receives: dict[int, list[Op]] = {}  # position of the op that they come before
    for message in sorted(line.inbox):
        running = bisect_left(line.ends, message.sent)
        receives.setdefault(running, []).append(message.receive)
    out: list[Op] = []
    for position, (op, send) in enumerate(zip(row, line.sends, strict=True)):
        out += receives.get(position, ())
        out.append(op)
        if send:
            out.append(send)
    return tuple(out)
