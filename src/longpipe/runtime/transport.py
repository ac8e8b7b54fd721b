"""What the executor asks of whoever carries its messages."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import torch

from longpipe.ir import Kind, Op, Program


class Direction(StrEnum):
    """Activations travel forward, their gradients backward; neither may block the other."""

    F = "F"
    B = "B"


def direction_of(op: Op) -> Direction:
    """The direction of a SEND or RECV."""
    return Direction.F if op.kind in (Kind.SEND_F, Kind.RECV_F) else Direction.B


class Handle(Protocol):
    """A receive in flight."""

    def wait(self) -> object:
        """Block until the buffer is filled (on a GPU: until the stream would see it filled)."""
        ...


class Transport(Protocol):
    """Messages between the ranks of one pipeline.

    A channel is (source, destination, direction); its messages arrive in the order they were
    sent. Ranks are the Program's.
    """

    def post_receive(self, source: int, direction: Direction, buffer: torch.Tensor) -> Handle:
        """Ask for the next message of a channel; does not block. `buffer` has its exact shape."""
        ...

    def send(self, destination: int, direction: Direction, tensor: torch.Tensor) -> None:
        """Hand `tensor` over; the caller must not write to it again.

        The transport drops it as soon as it has arrived.
        """
        ...

    def drain(self) -> None:
        """Block until everything sent has arrived; raise what went wrong on the way."""
        ...

    def close(self) -> None:
        """Give threads and buffers back; the transport is not used again."""
        ...


def edges_of(program: Program) -> Sequence[tuple[int, int, Direction]]:
    """Every channel of a Program, in one order on all ranks."""
    found = {
        (rank, program.peer(op), direction_of(op))
        for rank, row in enumerate(program.rows)
        for op in row
        if op.kind in (Kind.SEND_F, Kind.SEND_B)
    }
    return sorted(found)


def in_words(send: Op) -> str:
    """A SEND with what it carries."""
    what = "activation" if send.kind is Kind.SEND_F else "gradient"
    return f"{send} ({what} of micro-batch {send.mb}, segment {send.seg})"


def receive_for(op: Op, stages: int) -> Op | None:
    """The RECV whose message a compute op takes, wherever it comes from."""
    kind, stage, mb, seg = op
    if kind is Kind.F and stage:
        return Op(Kind.RECV_F, stage, mb, seg)
    if kind in (Kind.B, Kind.I) and stage + 1 < stages:
        return Op(Kind.RECV_B, stage, mb, seg)
    return None
