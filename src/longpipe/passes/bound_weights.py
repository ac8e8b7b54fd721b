"""A bound on the memory of deferred weight gradients."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeVar

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, Kind, Op, Pairs, Program, Rows, Schedule

Rewritten = TypeVar("Rewritten", Schedule, Program)


def bound_weights(schedule: Rewritten, held: Callable[[Op], int], limit: int) -> Rewritten:
    """Move W ops earlier, so that the bytes queued between I and W stay within `limit`.

    `held(w)` is the bytes that the queue holds for the op `w` of kind W, from the end of its I to
    its own end. Before an I that would push the queue of its rank above `limit`, as many of the
    queued W as needed run first, in the order in which the row has them. Everything else keeps
    its order, and no W moves further than it must: they still fill the bubbles that they can. A
    pair that a W comes between is one no more.

    The schedule must be valid (see `validate`), and what comes out is. Raises ScheduleError if
    one entry alone exceeds the limit.

    >>> from longpipe.ir import Problem, loop
    >>> row = tuple(map(Op.parse, "0F0 0F1 0I0 0I1 0W0 0W1".split()))
    >>> split = Schedule("", Problem(ranks=1, microbatches=2), loop(1), (row,))
    >>> " ".join(map(str, bound_weights(split, held=lambda op: 8, limit=8).rows[0]))
    '0F0 0F1 0I0 0W0 0I1 0W1'
    """
    rows = tuple(tuple(_bounded(rank, row, held, limit)) for rank, row in enumerate(schedule.rows))
    return replace(schedule, rows=rows, pairs=schedule.pairs & _neighbours(rows))


def _neighbours(rows: Rows) -> Pairs:
    """Compute ops next to each other; a W may have come between the two of a pair."""
    computes = ([op for op in row if op.kind in COMPUTE] for row in rows)
    return frozenset(pair for row in computes for pair in pairwise(row))


def _bounded(rank: int, row: tuple[Op, ...], held: Callable[[Op], int], limit: int) -> Iterator[Op]:
    place = {op: position for position, op in enumerate(row) if op.kind is Kind.W}
    queued: list[int] = []  # heap of the positions of W ops whose I has run
    bytes_queued = 0
    done: set[Op] = set()
    for position, op in enumerate(row):
        if op.kind is Kind.I:
            weight = op._replace(kind=Kind.W)
            entry_bytes = held(weight)
            if entry_bytes > limit:
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} queues {entry_bytes} bytes for {weight}, "
                    f"more than the limit of {limit}: raise the limit to at least {entry_bytes}, "
                    "cut the micro-batch in more segments, or use a schedule with full backwards"
                )
            while bytes_queued + entry_bytes > limit:
                early = row[heappop(queued)]
                bytes_queued -= held(early)
                done.add(early)
                yield early
            heappush(queued, place[weight])
            bytes_queued += entry_bytes
        elif op.kind is Kind.W:
            if op in done:
                continue
            heappop(queued)  # this very op: those before it in the row have left the queue
            bytes_queued -= held(op)
        yield op
