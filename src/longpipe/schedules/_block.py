"""Building blocks: write a schedule as the cells of one micro-batch, and repeat them.

Qi et al., arXiv:2405.15362, section 3: a *building block* says in which cell each rank runs the
passes of one micro-batch. Repeated every `period` cells, blocks fill the pipeline. The lifespan of
a stage, from its F to the end of its W or B, over the period is what the stage holds in memory.
`arrange` takes the paper's steps: repeat, squeeze, reorder warm-up and cool-down, fill in W's.

Over segments everything counts units, which are segments: F's of micro-batches in order, each one's
segments first to last; backwards last to first. So backward unit i needs F unit i + k - 1 at the
latest, and a block over k segments is the same block with its backwards k - 1 periods later.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from longpipe.errors import ProblemError
from longpipe.ir import Placement, Problem, Schedule
from longpipe.schedules._block_reorder import reorder
from longpipe.schedules._block_repeat import PassRows, extend, streams, with_weights
from longpipe.schedules._block_table import Table
from longpipe.schedules._streams import spell


@dataclass(frozen=True, slots=True)
class Block:
    """Cells of one unit's passes: `forward[stage]` of its F, `backward[stage]` of its I or B.

    A pass takes one cell, a full backward (`full`) two. W's are not written: `arrange` fills them
    in. `period` is at least the cells that a rank needs for a unit. Raises ProblemError if passes
    of a rank collide modulo the period, or one comes before another that it needs.

    1F1B on two ranks, with F and B of rank 1 together and rank 0 waiting for them:

    >>> from longpipe.ir import Problem, loop
    >>> block = Block(loop(2), forward=(0, 1), backward=(4, 2), period=3, full=True)
    >>> [str(op) for op in arrange(block, Problem(ranks=2, microbatches=2)).rows[0]]
    ['0F0', '0F1', '0B0', '0B1']
    """

    placement: Placement
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    period: int = 6  # two chunks: F, I and W of each
    full: bool = False

    def __post_init__(self) -> None:
        self._check_order()
        for rank in range(self.placement.ranks):
            self._check_room(rank)

    @property
    def width(self) -> int:
        """Cells of a backward."""
        return 2 if self.full else 1

    @property
    def depth(self) -> int:
        """Periods from a unit's first F to its last I or B."""
        return (max(self.backward) - min(self.forward)) // self.period + 1

    def over(self, segments: int) -> "Block":
        """The form over segments: backwards as many periods later, less one."""
        later = (segments - 1) * self.period
        return replace(self, backward=tuple(cell + later for cell in self.backward))

    def lifespans(self) -> tuple[int, ...]:
        """Cells from F's start to the end of B, or of W in the first cell left after I, by stage.

        Divided by the period and rounded up, summed over a rank's stages, they bound its peak in
        units: the paper's equation for peak memory.
        """
        ends = [cell + self.width for cell in self.backward]
        for rank in range(self.placement.ranks if not self.full else 0):
            taken = {cell % self.period for cell, _ in self._passes(rank)}
            for stage in sorted(self.placement.stages_of(rank), key=lambda s: self.backward[s]):
                while ends[stage] % self.period in taken:
                    ends[stage] += 1
                taken.add(ends[stage] % self.period)
                ends[stage] += 1
        return tuple(end - start for start, end in zip(self.forward, ends, strict=True))

    def peak(self) -> int:
        """Units that the worst rank holds while blocks repeat."""
        lives = self.lifespans()
        return max(
            sum(
                (cell - self.forward[s]) // self.period
                - (cell - self.forward[s] - lives[s]) // self.period
                for s in self.placement.stages_of(rank)
            )
            for rank in range(self.placement.ranks)
            for cell in range(self.period)
        )

    def repeat(self, units: int, lag: int) -> Table:
        """Blocks of so many units, a period apart; backward unit i needs F unit i + lag."""
        streams = (*self.forward, *self.backward)
        cells = [[cell + self.period * unit for unit in range(units)] for cell in streams]
        return Table(self.placement, cells, lag, self.width)

    def _passes(self, rank: int) -> Iterator[tuple[int, str]]:
        """Every cell that a pass of the rank takes, with the pass's name."""
        for stage in self.placement.stages_of(rank):
            yield self.forward[stage], f"{stage}F"
            for cell in range(self.width):
                yield self.backward[stage] + cell, f"{stage}{'B' if self.full else 'I'}"

    def _check_room(self, rank: int) -> None:
        taken: dict[int, tuple[int, str]] = {}
        for cell, name in self._passes(rank):
            if cell % self.period in taken:
                other, before = taken[cell % self.period]
                raise ProblemError(
                    f"block: {before} in cell {other} and {name} in cell {cell} of rank {rank} "
                    f"collide modulo the period, {self.period}: set another cell for one of them"
                )
            taken[cell % self.period] = (cell, name)
        passes = 3 * len(self.placement.stages_of(rank))
        if self.period < passes:
            raise ProblemError(
                f"block: rank {rank} needs {passes} cells per unit for its F, I and W, but the "
                f"period is {self.period}: set period={passes} or more"
            )

    def _check_order(self) -> None:
        width = self.width
        path = [(f"{s}F", cell, cell + 1) for s, cell in enumerate(self.forward)]
        path += [
            (f"{s}{'B' if self.full else 'I'}", cell, cell + width)
            for s, cell in reversed(tuple(enumerate(self.backward)))
        ]
        for (before, _, end), (after, start, _) in pairwise(path):
            if start < end:
                raise ProblemError(
                    f"block: {after} in cell {start} needs {before}, which ends at {end}: "
                    f"set cell {end} or a later one for {after}"
                )


def arrange(block: Block, problem: Problem) -> Schedule:
    """The schedule that repeats `block` for every unit of `problem`, squeezed and reordered.

    Reordering never lets a rank hold more units than the worst rank of the repeated block holds.
    Only so many units are reordered as warm-up and cool-down need; the steady state between them
    is repeated. So time grows linearly with the units, with the square of the ranks before that.
    """
    units, lag = len(problem.units()), problem.segments_max - 1
    block = block.over(problem.segments_max)
    few = 3 * (block.depth + 1)
    rows = extend(order(block, few, lag), units - few) if units > few else None
    if rows is None:  # few units, or no steady state that repeats with each of them
        rows = order(block, units, lag)
    return spell(streams(rows), problem, block.placement, full=block.full)


def order(block: Block, units: int, lag: int, limit: int | None = None) -> PassRows:
    """The paper's steps, for a block over segments; ranks hold `limit` units, or as the block.

    First with W's in the cells that the repeated block leaves idle; then, squeezed, without.
    """
    table = block.repeat(units, lag)
    if block.full:
        reorder(table, limit=limit, all_phases=True)
        table.squeeze()
        return table.rows()
    table.fill_weights()
    reorder(table, limit=limit)
    table.squeeze()
    table.drop_weights()
    reorder(table, limit=limit)
    return with_weights(table)
