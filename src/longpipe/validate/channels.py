"""The order of messages on each channel, and progress where buffers are bounded."""

from collections.abc import Iterable, Iterator

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, RECEIVES, SENDS, Kind, Op, Program, crossing, matching, needs, walk
from longpipe.validate.complete import Places

Channel = tuple[int, int, Kind]
"""Source rank, destination rank, kind of SEND. Messages on a channel arrive first in, first out."""

Channels = dict[Channel, list[Op]]
"""The SEND of each message of a channel, in order."""


def check_channels(program: Program, places: Places) -> Channels:
    """RECVs are posted in the order of the SENDs; raise ScheduleError if not."""
    sent: Channels = {}
    received: Channels = {}
    for rank, row in enumerate(program.rows):
        for op in row:
            if op.kind in SENDS:
                sent.setdefault((rank, program.peer(op), op.kind), []).append(op)
            elif op.kind in RECEIVES:
                send = matching(op)
                received.setdefault((program.peer(op), rank, send.kind), []).append(send)
    for channel, sends in sent.items():
        if sends != received[channel]:
            raise ScheduleError(_swapped(channel, sends, received[channel], places))
    return sent


def _swapped(channel: Channel, sends: list[Op], received: list[Op], places: Places) -> str:
    source, destination, kind = channel
    number = next(i for i, pair in enumerate(zip(sends, received, strict=True)) if len({*pair}) > 1)
    send, receive, right = sends[number], matching(received[number]), matching(sends[number])
    return (
        f"rank {destination}, op {places[receive]}: {receive} is RECV {number} of the channel from "
        f"rank {source} ({kind}), but SEND {number} there is {send} (op {places[send]}), so it "
        f"would get the wrong tensor: put {right} (op {places[right]}) in its place"
    )


def check_progress(program: Program, channels: Channels, buffers: int) -> None:
    """No deadlock when SEND blocks; raise ScheduleError with the cycle if there is one.

    With `buffers` = 0 a SEND returns once its RECV is posted (rendezvous); with n, message i of
    a channel is sent once RECV i - n is posted. A RECV never blocks, but its reader does.
    """
    opens = {
        send: matching(sends[i - buffers])
        for sends in channels.values()
        for i, send in enumerate(sends)
        if i >= buffers
    }

    def waits(op: Op) -> Iterable[Op]:
        if op.kind in COMPUTE:
            return _arrivals(op, program)
        return (opens[op],) if op in opens else ()

    try:
        for _ in walk(program.rows, waits):
            pass
    except ScheduleError as fault:
        rule = "until its RECV is posted" if buffers == 0 else f"while {buffers} are not received"
        raise ScheduleError(f"where a SEND blocks {rule}: {fault}") from None


def _arrivals(op: Op, program: Program) -> Iterator[Op]:
    """What a compute op waits for: on its own rank the op that makes it, else the message."""
    for need in needs(op, program.problem):
        pair = None
        if need.stage != op.stage:
            pair = crossing(need, program.problem, program.placement)
        yield from pair or (need,)
