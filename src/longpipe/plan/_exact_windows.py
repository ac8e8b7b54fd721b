"""When each op can end at the earliest, and at the latest for a rank's span to stay below a bound.

Bounds of single ops that hold in every order: they fix most pairs of ops before the solver starts.
"""

from math import inf
from typing import NamedTuple

from longpipe.schedules._zb_streams import Streams

Slot = tuple[str, int, int]  # letter, rank, position in its stream


class Windows(NamedTuple):
    """First and last tick at which an op can end, and when each rank starts its first F."""

    first: dict[Slot, float]
    last: dict[Slot, float]
    begin: tuple[float, ...]


def windows(ops: Streams, most: float) -> Windows:
    """The windows of all ops in orders whose span is at most `most`.

    Every rank's first op is its first F, which starts when the F's of the ranks before have passed.
    """
    begin = [0.0]
    for rank in range(ops.ranks - 1):
        begin.append(begin[-1] + ops.ticks["F"][rank][0] + ops.delay["F"][rank][0])
    return Windows(_first(ops, begin), _last(ops, begin, most), tuple(begin))


def _first(ops: Streams, begin: list[float]) -> dict[Slot, float]:
    first: dict[Slot, float] = {}
    ticks, delay = ops.ticks, ops.delay
    for rank in range(ops.ranks):
        for at in range(ops.units):
            start = first["F", rank, at - 1] if at else begin[rank]
            if rank and at:
                start = max(start, first["F", rank - 1, at] + delay["F"][rank - 1][at])
            first["F", rank, at] = start + ticks["F"][rank][at]
    for rank in reversed(range(ops.ranks)):
        for at, needed in enumerate(ops.needed):
            done = sum(ticks["F"][rank][:needed]) + sum(ticks["I"][rank][:at])
            start = max(first["F", rank, needed - 1], begin[rank] + done)
            if at:
                start = max(start, first["I", rank, at - 1])
            if rank + 1 < ops.ranks:
                start = max(start, first["I", rank + 1, at] + delay["I"][rank + 1][at])
            first["I", rank, at] = start + ticks["I"][rank][at]
        for at in range(ops.units):
            start = first["I", rank, at]
            if at:
                start = max(start, first["W", rank, at - 1])
            first["W", rank, at] = start + ticks["W"][rank][at]
    return first


def _last(ops: Streams, begin: list[float], most: float) -> dict[Slot, float]:
    last: dict[Slot, float] = {}
    ticks = ops.ticks
    for rank in range(ops.ranks):
        for at in reversed(range(ops.units)):
            ends = [_start(ops, last, ("W", rank, at + 1)), begin[rank] + most]
            last["W", rank, at] = min(ends)
        for at in reversed(range(ops.units)):
            left = sum(ticks["I"][rank][at + 1 :]) + sum(ticks["W"][rank][at:])
            ends = [_start(ops, last, ("W", rank, at)), begin[rank] + most - left]
            ends.append(_start(ops, last, ("I", rank, at + 1)))
            if rank:
                ends.append(_start(ops, last, ("I", rank - 1, at)) - ops.delay["I"][rank][at])
            last["I", rank, at] = min(ends)
    for rank in reversed(range(ops.ranks)):
        for at in reversed(range(ops.units)):
            backward = next(i for i, needed in enumerate(ops.needed) if needed > at)
            ends = [_start(ops, last, ("I", rank, backward))]
            ends.append(_start(ops, last, ("F", rank, at + 1)))
            if rank + 1 < ops.ranks:
                ends.append(_start(ops, last, ("F", rank + 1, at)) - ops.delay["F"][rank][at])
            last["F", rank, at] = min(ends)
    return last


def _start(ops: Streams, last: dict[Slot, float], slot: Slot) -> float:
    """The last tick at which an op can start; never too late, if there is no such op."""
    letter, rank, at = slot
    return last[slot] - ops.ticks[letter][rank][at] if at < ops.units else inf
