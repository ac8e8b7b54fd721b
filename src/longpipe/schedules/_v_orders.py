"""What the search over a V tries: each candidate orders a problem of any length."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from longpipe.schedules import v_half, v_min, zb_v
from longpipe.schedules._block import Block, order
from longpipe.schedules._block_cool import stack_cool_down
from longpipe.schedules._block_reorder import reorder
from longpipe.schedules._block_repeat import PassRows, extend, streams, with_weights
from longpipe.schedules._streams import Row, Streams
from longpipe.schedules._v_blocks import blocks, slow_block
from longpipe.schedules._v_fill import fill_weights
from longpipe.schedules._v_greedy import greedy

Candidate = Callable[[Streams], list[Row] | None]
"""Rows for a problem of any length; None if it has none that can run."""

_SHARES = (1.0, 0.5, 0.0)  # of a W's time that must be idle before one is put there


def lag_of(whole: Streams) -> int:
    """Units that F's are ahead of what the backward needs without segments."""
    return whole.problem.segments_max - 1


def published(whole: Streams) -> Iterator[Candidate]:
    """ZB-V's fixed order and greedy generator, V-Half and V-Min."""
    p, lag = whole.problem.ranks, lag_of(whole)
    yield _zb_v
    yield greedy
    for block in (v_half.block(p), v_min.block(p)):
        yield _BlockOrder(block.over(lag + 1), None, lag, tight=False).rows


def _zb_v(whole: Streams) -> list[Row]:
    return list(zb_v.rows(whole.problem.ranks, whole.units, lag_of(whole)))


def from_blocks(whole: Streams, cap: int) -> Iterator[Candidate]:
    """Orders of the blocks that hold at most `cap` units; fewer blocks of many ranks."""
    p, lag = whole.problem.ranks, lag_of(whole)
    own = cap - 2 * lag  # what the block holds over whole micro-batches
    if own < 2:
        return
    found = [hops.block(p) for _, hops in islice(blocks(p, own), max(4, min(16, 256 // p)))]
    for block in found or [slow_block(p, own)]:
        for tight in (True, False):
            order = _BlockOrder(block.over(lag + 1), cap, lag, tight)
            yield order.rows
            yield from (partial(order.filled, share) for share in _SHARES)


class _BlockOrder:
    """A repeated block, its ends drawn together until ranks hold `cap` units; cached by length.

    With None they hold as many as the block. `tight`, which needs a cap, stacks the cool-down
    first, and moves passes of all phases.
    """

    def __init__(self, block: Block, cap: int | None, lag: int, tight: bool) -> None:
        self.block, self.cap, self.lag, self.tight = block, cap, lag, tight
        self.few = 2 * block.depth + 6
        self.made: dict[int, PassRows | None] = {}

    def rows(self, whole: Streams) -> list[Row] | None:
        """With the W's in the idle cells of the block."""
        made = self._made(whole.units)
        return None if made is None else [list(row) for row in streams(made)]

    def filled(self, share: float, whole: Streams) -> list[Row] | None:
        """With the W's in the idle time that the real costs leave; see `fill_weights`."""
        rows = self.rows(whole)
        if rows is None:
            return None
        bare = [[stream for stream in row if stream < 2 * whole.stages] for row in rows]
        return fill_weights(whole, bare, share)

    def _made(self, units: int) -> PassRows | None:
        if units <= self.few:
            if units not in self.made:
                self.made[units] = self._arranged(units)
            return self.made[units]
        base = self._made(self.few)
        return None if base is None else extend(base, units - self.few)

    def _arranged(self, units: int) -> PassRows | None:
        if not self.tight or self.cap is None:
            return order(self.block, units, self.lag, self.cap)
        table = self.block.repeat(units, self.lag)
        table.fill_weights()
        table.squeeze()
        if not stack_cool_down(table, self.cap):
            return None
        table.squeeze()
        reorder(table, limit=self.cap, all_phases=True)
        table.squeeze()
        table.drop_weights()
        reorder(table, limit=self.cap)
        return with_weights(table)
