"""The building blocks that the adaptive V scheduler tries.

Qi et al., arXiv:2405.15362, appendix A: passes go down the ranks with one offset per hop up to some
rank and another, no larger, after it; up the ranks they take one cell per hop. The paper's pattern
on the first rank (where F of chunk 1 and the two I's stand among six cells) says the same as the
three turns here: the cells between F of the last hop down and F of the first hop up, between the
last F and the first I, and between the last I of chunk 1 and the first of chunk 0.
"""

from collections.abc import Iterator
from itertools import count, product
from typing import NamedTuple

from longpipe.ir import v
from longpipe.schedules import v_min
from longpipe.schedules._block import Block

_PERIOD = 6


class Hops(NamedTuple):
    """A V-block by its offsets: `first` per hop down on ranks up to `bend`, `then` after it."""

    first: int
    then: int
    bend: int
    turns: tuple[int, int, int]

    def down(self, rank: int) -> int:
        """Cells from rank 0 down to a rank."""
        return self.first * min(rank, self.bend) + self.then * max(rank - self.bend, 0)

    def corners(self, p: int) -> tuple[int, int, int]:
        """Where F's begin to go up, I's to come back down, and I's to go up again."""
        up = self.down(p - 1) + self.turns[0]
        back = up + p - 1 + self.turns[1]
        return up, back, back + self.down(p - 1) + self.turns[2]

    def cells(self, p: int, rank: int) -> tuple[int, int, int, int]:
        """Cells of F of chunk 0 and 1, and of I of chunk 1 and 0, on a rank."""
        up, back, home = self.corners(p)
        down, climbed = self.down(rank), p - 1 - rank
        return down, up + climbed, back + down, home + climbed

    def block(self, p: int) -> Block:
        """The block on p ranks."""
        ranks = [self.cells(p, rank) for rank in range(p)]
        return Block(
            v(p),
            forward=(*(f0 for f0, _, _, _ in ranks), *(f1 for _, f1, _, _ in reversed(ranks))),
            backward=(*(i0 for _, _, _, i0 in ranks), *(i1 for _, _, i1, _ in reversed(ranks))),
        )

    def lifespan(self, p: int) -> int:
        """Cells from F to I, of both chunks of a rank together: the same on every rank."""
        f0, f1, i1, i0 = self.cells(p, 0)
        return i0 - f0 + i1 - f1

    def peak(self, p: int) -> int | None:
        """Units that the worst rank holds; None if passes of a rank collide.

        Six ranks farther on the same leg all offsets are the same modulo the period, and what one
        chunk holds more the other holds less: so six ranks of each leg stand for all.
        """
        worst = 0
        second = range(self.bend + 1, min(self.bend + 1 + _PERIOD, p))
        for rank in (*range(min(_PERIOD, self.bend + 1, p)), *second):
            held = _held(self.cells(p, rank))
            if held is None:
                return None
            worst = max(worst, held)
        return worst


def _held(cells: tuple[int, int, int, int]) -> int | None:
    """Units that a rank holds at most; None if its passes collide."""
    taken = {cell % _PERIOD for cell in cells}
    if len(taken) < len(cells):
        return None
    f0, f1, i1, i0 = cells
    lives = []
    for start, end in ((f1, i1), (f0, i0)):
        weight = end + 1
        while weight % _PERIOD in taken:
            weight += 1
        taken.add(weight % _PERIOD)
        lives.append((start, weight + 1))
    return max(
        sum((cell - start) // _PERIOD - (cell - end) // _PERIOD for start, end in lives)
        for cell in range(_PERIOD)
    )


def blocks(p: int, limit: int) -> Iterator[tuple[int, Hops]]:
    """(peak, block) for blocks that hold at most `limit` units, most first, longest-lived first.

    Memory buys speed: a block that holds less leaves bubbles, and among blocks that hold as much,
    long lifespans leave slack.
    """
    found = []
    cells = range(1, _PERIOD)
    turns = [(one, two, three) for one in cells for two in cells for three in cells]
    for first in range(1, _PERIOD):
        for then in range(1, first + 1):
            bends = range(1, p - 1) if then < first else (p,)
            for bend, turn in product(bends, turns):
                hops = Hops(first, then, bend, turn)
                life = hops.lifespan(p)
                if life <= _PERIOD * limit:
                    peak = hops.peak(p)
                    if peak is not None and peak <= limit:
                        found.append((-peak, -life, hops))
    found.sort()
    return ((-peak, hops) for peak, _, hops in found)


def slow_block(p: int, limit: int) -> Block:
    """V-Min's block with the shortest period for which no rank holds more than `limit` units.

    Not in the paper: where memory is too small for any block of six cells, micro-batches follow
    each other at a greater distance; with two units, one by one.
    """
    return next(
        found
        for found in (v_min.block(p, period) for period in count(_PERIOD, step=2))
        if found.peak() <= limit
    )
