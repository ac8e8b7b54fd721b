"""The cool-down of a V, stacked as tightly as the I's can follow each other."""

from longpipe.schedules._block_table import Table


def stack_cool_down(table: Table, limit: int) -> bool:
    """After the last F of rank 0, I's of both chunks in turn, one cell later on each rank.

    As the authors' adaptive scheduler does: of the `limit` units that a rank may hold then, the
    last half (rounded up) are I's of its first chunk, and those left, at most one more than its
    rank number (and `lag`), of its second. The last W's fill idle cells. Takes a squeezed table of
    a V with W's; False, and the table is of no use then, where the passes would not fit.
    """
    stages, ranks, units = table.stages, table.ranks, table.units
    start = table.cells[stages - 1][-1] + 2 * table.lag
    first = min((limit + 1) // 2, units)
    for rank in range(ranks):
        second = min(rank + 1 + table.lag, limit - first, units)
        down, up = table.cells[stages + rank], table.cells[2 * stages - 1 - rank]
        for last in range(first):
            down[units - 1 - last] = start - rank + 2 * (ranks - last)
        for last in range(second):
            up[units - 1 - last] = start + 1 + rank - 2 * last
        _refill(table, rank, limit)
    return _is_right(table)


def _refill(table: Table, rank: int, limit: int) -> None:
    """Put the last W's of a rank into idle cells after the others."""
    stages = table.stages
    weights = table.cells[2 * stages + rank]
    del weights[max(len(weights) - limit, 0) :]
    backwards = sorted((*table.cells[stages + rank], *table.cells[2 * stages - 1 - rank]))
    taken = {*backwards, *table.cells[rank], *table.cells[stages - 1 - rank]}
    cell = weights[-1] + 1 if weights else 0
    for backward in backwards[len(weights) :]:
        cell = max(cell, backward + 1)
        while cell in taken:
            cell += 1
        weights.append(cell)
        cell += 1


def _is_right(table: Table) -> bool:
    """Whether no two passes share a cell and each comes after what it needs."""
    before: dict[int, int] = {}
    for cell, rank, stream, unit in table.passes():
        if before.get(rank, -1) >= cell or cell < table.ready(stream, unit):
            return False
        before[rank] = cell
    return True
