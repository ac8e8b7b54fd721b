"""Cells of every pass of a repeated block: which rank, when, and what it waits for.

A *stream* is one kind of pass on one stage; its unit i stands in `cells[stream][i]`. With S stages,
stream s is F of stage s, and stream S + s its backward. After `Table.fill_weights` stream 2S + r is
all W's of rank r, first in, first out, while it does not matter yet of which stage they are.
"""

from longpipe.ir import Placement

Pass = tuple[int, int, int, int]
"""Cell, rank, stream and unit of one pass."""

Slot = tuple[int, int]
"""Stream and unit of one pass."""


class Table:
    """A grid of ranks by cells, and where in it each pass stands.

    `lag` is how many units the F's are ahead: backward unit i needs F unit i + lag. A backward
    takes `width` cells: one for I, two for a full B, which frees memory at its end.
    """

    def __init__(self, placement: Placement, cells: list[list[int]], lag: int, width: int) -> None:
        self.stages, self.ranks = placement.stages, placement.ranks
        self.rank_of = [placement(stage, 0) for stage in range(self.stages)] * 2
        self.rank_of += range(self.ranks)
        self.cells, self.lag, self.width = cells, lag, width
        self.units = len(cells[0])

    @property
    def has_weights(self) -> bool:
        """Whether the W's stand in the table."""
        return len(self.cells) > 2 * self.stages

    def is_forward(self, stream: int) -> bool:
        """Whether a stream is F of a stage."""
        return stream < self.stages

    def is_backward(self, stream: int) -> bool:
        """Whether a stream is I or B of a stage."""
        return self.stages <= stream < 2 * self.stages

    def size(self, stream: int) -> int:
        """Cells that a pass takes."""
        return self.width if self.is_backward(stream) else 1

    def passes(self) -> list[Pass]:
        """Every pass, ordered by cell, then rank."""
        found = [
            (cell, self.rank_of[stream], stream, unit)
            for stream, cells in enumerate(self.cells)
            for unit, cell in enumerate(cells)
        ]
        found.sort()
        return found

    def rows(self) -> list[list[Pass]]:
        """The passes of each rank, in order."""
        rows: list[list[Pass]] = [[] for _ in range(self.ranks)]
        for each in self.passes():
            rows[each[1]].append(each)
        return rows

    def ready(self, stream: int, unit: int) -> int:
        """First cell in which all is there that an F or a backward needs, the unit before too."""
        cells, stages = self.cells, self.stages
        ready = cells[stream][unit - 1] + self.size(stream) if unit else 0
        if stream < stages:
            return max(ready, cells[stream - 1][unit] + 1) if stream else ready
        if stream < 2 * stages:
            ready = max(ready, cells[stream - stages][min(unit + self.lag, self.units - 1)] + 1)
            if stream + 1 < 2 * stages:
                ready = max(ready, cells[stream + 1][unit] + self.width)
        return ready

    def squeeze(self) -> None:
        """Every pass as early as its rank's order and its needs allow: idle cells go."""
        free = [0] * self.ranks
        for _, rank, stream, unit in self.passes():
            start = max(free[rank], self.ready(stream, unit))
            self.cells[stream][unit] = start
            free[rank] = start + self.size(stream)

    def fill_weights(self) -> None:
        """A W in each idle cell where one is due, or after the last pass."""
        for row in self.rows():
            filled: list[int] = []
            due = free = 0
            for cell, _, stream, _ in row:
                now = min(due, cell - free)
                filled += range(free, free + now)
                due += self.is_backward(stream) - now
                free = cell + 1
            self.cells.append([*filled, *range(free, free + due)])

    def drop_weights(self) -> None:
        """Forget where the W's stand."""
        del self.cells[2 * self.stages :]
