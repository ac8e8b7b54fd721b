"""What the search over a V tries: each candidate orders a problem of any length."""

from collections.abc import Callable, Iterator
from dataclasses import replace
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
    """V-Min, V-Half, ZB-V's fixed order and its greedy generator, the most able last."""
    p, lag = whole.problem.ranks, lag_of(whole)
    for block in (v_min.block(p), v_half.block(p)):
        yield BlockOrder(block.over(lag + 1), None, lag).loose
    yield _zb_v
    yield _greedy_as_zb_v


def _greedy_as_zb_v(whole: Streams) -> list[Row] | None:
    """The generator under ZB-V's memory, or the limit if that is less."""
    rooms = zip(whole.limit, zb_v_cells(whole), strict=True)
    return greedy(replace(whole, limit=tuple(map(min, rooms))))


def zb_v_cells(whole: Streams) -> list[float]:
    """Cells that ranks hold in ZB-V's order, of ops of mean size."""
    units = 2 * (whole.problem.ranks + lag_of(whole)) + 0.5  # against rounding
    return [units * whole.cells(0, rank) for rank in range(whole.problem.ranks)]


def _zb_v(whole: Streams) -> list[Row]:
    return list(zb_v.rows(whole.problem.ranks, whole.units, lag_of(whole)))


def block_orders(whole: Streams, cap: int) -> list["BlockOrder"]:
    """Of blocks that hold at most `cap` units, the most promising; fewer of many ranks."""
    p, lag = whole.problem.ranks, lag_of(whole)
    own = cap - 2 * lag  # what the block holds over whole micro-batches
    if own < 2:
        return []
    found = [hops.block(p) for _, hops in islice(blocks(p, own), max(4, min(16, 256 // p)))]
    return [BlockOrder(block.over(lag + 1), cap, lag) for block in found or [slow_block(p, own)]]


class BlockOrder:
    """A repeated block, its ends drawn together until ranks hold `cap` units.

    With None they hold as many as the block, and only `loose` is there. Short tables are kept.
    """

    def __init__(self, block: Block, cap: int | None, lag: int) -> None:
        self.block, self.cap, self.lag = block, cap, lag
        self.few = 2 * block.depth + 6
        self.made: dict[tuple[bool, int], PassRows | None] = {}

    def tight(self, whole: Streams) -> list[Row] | None:
        """With the cool-down stacked first, and passes of all phases moved."""
        return self._rows(whole, tight=True)

    def loose(self, whole: Streams) -> list[Row] | None:
        """As the authors' generator of V-Min and V-Half does it."""
        return self._rows(whole, tight=False)

    def variants(self) -> Iterator[Candidate]:
        """`loose`, and both with the W's in the idle time that the real costs leave."""
        yield self.loose
        for share in _SHARES:
            yield partial(self._filled, share, True)
            yield partial(self._filled, share, False)

    def _filled(self, share: float, tight: bool, whole: Streams) -> list[Row] | None:
        rows = self._rows(whole, tight)
        if rows is None:
            return None
        bare = [[stream for stream in row if stream < 2 * whole.stages] for row in rows]
        return fill_weights(whole, bare, share)

    def _rows(self, whole: Streams, tight: bool) -> list[Row] | None:
        few = min(self.few, whole.units)
        if (tight, few) not in self.made:
            self.made[tight, few] = self._arranged(few, tight)
        made = self.made[tight, few]
        if made is not None and whole.units > few:
            made = extend(made, whole.units - few)
        return None if made is None else [list(row) for row in streams(made)]

    def _arranged(self, units: int, tight: bool) -> PassRows | None:
        if not tight or self.cap is None:
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
