"""The order of messages on each channel, and progress where buffers are bounded."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, MESSAGES, SENDS, Kind, Op, Program, matching, needs, walk
from longpipe.validate.complete import Places


class Channel(NamedTuple):
    """Messages from one rank to another in one direction: first in, first out."""

    source: int
    destination: int
    kind: Kind  # of the SENDs


Channels = dict[Channel, tuple[list[Op], list[Op]]]
"""The SENDs and the RECVs of each channel, in the order of their rows."""


def check_channels(program: Program, places: Places) -> Channels:
    """RECVs are posted in the order of the SENDs; raise ScheduleError if not."""
    channels: Channels = defaultdict(lambda: ([], []))
    placement = program.placement
    for rank, row in enumerate(program.rows):
        for op in row:
            if op.kind not in MESSAGES:
                continue
            other = matching(op)
            peer = placement(other.stage, other.mb)
            if op.kind in SENDS:
                channels[Channel(rank, peer, op.kind)][0].append(op)
            else:
                channels[Channel(peer, rank, other.kind)][1].append(op)
    for channel, (sends, receives) in channels.items():
        for number, (send, receive) in enumerate(zip(sends, receives, strict=True)):
            if matching(receive) != send:
                raise ScheduleError(_swapped(channel, number, send, receive, places))
    return channels


def _swapped(channel: Channel, number: int, send: Op, receive: Op, places: Places) -> str:
    right = matching(send)
    return (
        f"rank {channel.destination}, op {places[receive]}: {receive} is RECV {number} of the "
        f"channel from rank {channel.source} ({channel.kind}), but SEND {number} there is {send} "
        f"(op {places[send]}), so it would get the wrong tensor: "
        f"put {right} (op {places[right]}) in its place"
    )


def check_progress(program: Program, places: Places, channels: Channels, buffers: int) -> None:
    """No deadlock when SEND blocks; raise ScheduleError with the cycle if there is one.

    With `buffers` = 0 a SEND returns once its RECV is posted (rendezvous); with n, message i of
    a channel is sent once RECV i - n is posted. A RECV never blocks, but its reader does.
    """
    opens = {
        send: receive
        for sends, receives in channels.values()
        for send, receive in zip(sends[buffers:], receives, strict=False)
    }

    def waits(op: Op) -> Iterable[Op]:
        if op.kind in COMPUTE:
            return [_arrival(op, need, places) for need in needs(op, program.problem)]
        return (opens[op],) if op in opens else ()

    try:
        for _ in walk(program.rows, waits):
            pass
    except ScheduleError as fault:
        rule = "until its RECV is posted"
        if buffers:
            rule = f"while {buffers} earlier messages of its channel wait for their RECV"
        raise ScheduleError(f"where a SEND blocks {rule}: {fault}") from None


def _arrival(op: Op, need: Op, places: Places) -> Op:
    """What `op` waits for to have its `need`: the SEND, or what the own rank runs for it.

    Its RECV stands earlier on its own rank (`messages` sees to that) and never blocks.
    """
    if need.stage == op.stage:
        return need
    kind = Kind.SEND_F if need.kind is Kind.F else Kind.SEND_B
    send = Op(kind, need.stage, need.mb, need.seg)
    return send if send in places else need
