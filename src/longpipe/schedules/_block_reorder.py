"""Warm-up and cool-down of a repeated block, drawn together without raising the peak."""

from bisect import bisect_left, insort

from longpipe.schedules._block_table import Pass, Table

_IDLE, _F, _BACKWARD, _W = range(4)


def reorder(table: Table, *, limit: int | None = None, all_phases: bool = False) -> None:
    """Move passes to the earliest idle cell that their needs allow.

    A rank then holds at most `limit` units, or as many as the worst rank holds now. Passes of the
    warm-up and the cool-down move; the steady state, from the first backward of stage 0 to the last
    F on a first chunk, stays, unless `all_phases`. Without W's only the cool-down moves.
    """
    lanes = [_Lane(table, rank) for rank in range(table.ranks)]
    if limit is None:
        limit = max(max(lane.held) for lane in lanes)
    moving = table.passes() if all_phases else _ends(table)
    for cell, rank, stream, unit in moving:
        lane = lanes[rank]
        first = table.ready(stream, unit)
        if stream >= 2 * table.stages:
            first = max(first, lane.backwards[unit] + 1)
        if first < cell:
            table.cells[stream][unit] = lane.move(table, stream, first, cell, limit)


def _ends(table: Table) -> list[Pass]:
    """Passes of the warm-up (where the W's are placed) and of the cool-down."""
    order = table.passes()
    stages, last = table.stages, table.units - 1
    steady = next(at for at, (_, _, stream, _) in enumerate(order) if stream == stages)
    cool = next(
        (
            at
            for at, (_, _, stream, unit) in enumerate(order)
            if at > steady and stream < table.ranks and unit == last
        ),
        len(order),
    )
    return [*(order[:steady] if table.has_weights else []), *order[cool + 1 :]]


class _Lane:
    """One rank's cells while passes move: what is where, and the memory held after each cell.

    Where the table has no W's, memory is counted as if one ran in each idle cell where it is due.
    """

    def __init__(self, table: Table, rank: int) -> None:
        row = [
            (cell, stream)
            for stream, cells in enumerate(table.cells)
            if table.rank_of[stream] == rank
            for cell in cells
        ]
        cells = max(cell for cell, _ in row) + table.width
        self.backwards = sorted(cell for cell, stream in row if table.is_backward(stream))
        self.last_forward = max(cell for cell, stream in row if table.is_forward(stream))
        self.placed = table.has_weights or table.width == 2
        self.kind = bytearray(cells)
        self.held, self.due = [0] * cells, [0] * cells
        for cell, stream in row:
            self._put(table, stream, cell)
        self._count(0, cells)

    def move(self, table: Table, stream: int, first: int, cell: int, limit: int) -> int:
        """Take the pass from `cell` to an idle cell, at least `first`, if one fits; where it is."""
        kind, wide = self.kind, table.size(stream) == 2
        if self.placed and table.is_forward(stream):  # it holds memory from the new cell to the old
            floor = cell
            while floor > first and self.held[floor - 1] < limit:
                floor -= 1
            first = floor
        self._take(cell, wide)
        for spot in range(first, cell):
            if kind[spot] or (wide and kind[spot + 1]):
                continue
            self._put(table, stream, spot)
            if self._count(first, cell + 1) <= limit or spot > self.last_forward:
                if table.is_backward(stream):
                    del self.backwards[bisect_left(self.backwards, cell)]
                    insort(self.backwards, spot)
                return spot
            self._take(spot, wide)
        self._put(table, stream, cell)
        self._count(first, cell + 1)
        return cell

    def _put(self, table: Table, stream: int, cell: int) -> None:
        if table.is_forward(stream):
            self.kind[cell] = _F
        elif table.is_backward(stream):
            self.kind[cell] = _BACKWARD
            if table.width == 2:
                self.kind[cell + 1] = _W
        else:
            self.kind[cell] = _W

    def _take(self, cell: int, wide: bool) -> None:
        self.kind[cell] = _IDLE
        if wide:
            self.kind[cell + 1] = _IDLE

    def _count(self, start: int, stop: int) -> int:
        """Count memory again from `start` to `stop`, and on while it differs; the most of it."""
        held, due = (self.held[start - 1], self.due[start - 1]) if start else (0, 0)
        most = 0
        for cell in range(start, len(self.kind)):
            kind = self.kind[cell]
            if kind == _F:
                held += 1
            elif kind == _BACKWARD:
                due += 1
            elif kind == _W or (due and not self.placed):
                held -= 1
                due -= 1
            if cell >= stop and self.held[cell] == held and self.due[cell] == due:
                break
            self.held[cell], self.due[cell] = held, due
            most = max(most, held)
        return most
