"""From a table of cells to rows: W's by stage, and more of the steady state."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

from longpipe.schedules._block_table import Pass, Table

PassRows = list[list[Pass]]
"""The passes of each rank in order; stream 2S + s is W of stage s."""


def with_weights(table: Table) -> PassRows:
    """The rows of a table without W's, with one in each idle cell where it is due.

    Of W's that are due, the latest stage's comes first, then the oldest.
    """
    return [_fill(row, table) for row in table.rows()]


def _fill(row: list[Pass], table: Table) -> list[Pass]:
    filled: list[Pass] = []
    due: dict[int, deque[int]] = {}  # units by stream of the W's
    free = 0

    def run(cell: int) -> None:
        stream = max(stream for stream, units in due.items() if units)
        filled.append((cell, row[0][1], stream, due[stream].popleft()))

    for each in row:
        cell, _, stream, unit = each
        for idle in range(free, min(cell, free + sum(map(len, due.values())))):
            run(idle)
        filled.append(each)
        if table.is_backward(stream):
            due.setdefault(stream + table.stages, deque()).append(unit)
        free = cell + 1
    for idle in range(free, free + sum(map(len, due.values()))):
        run(idle)
    return filled


def extend(rows: PassRows, units: int) -> PassRows | None:
    """Put so many units more in the middle, where each rank runs every stream once in a window.

    All that comes after the window moves back by a window for each unit, and copies of the window
    fill the gap. What a pass waits for then stands as far before it as it did, or farther, so the
    order stays right; and a window frees what it holds. None if there is no such window.
    """
    first = [cell for cell, _, stream, _ in rows[0] if stream == 0]
    middle = len(first) // 2
    period = first[middle + 1] - first[middle]
    streams = [len({stream for _, _, stream, _ in row}) for row in rows]
    cells = [[cell for cell, *_ in row] for row in rows]
    for start in range(first[middle], first[-1]):
        cuts = [(bisect_left(row, start), bisect_left(row, start + period)) for row in cells]
        windows = [row[begin:end] for row, (begin, end) in zip(rows, cuts, strict=True)]
        if all(
            len(window) == each == len({stream for _, _, stream, _ in window})
            for window, each in zip(windows, streams, strict=True)
        ):
            return [
                [
                    *row[:begin],
                    *(_later(each, later, period) for later in range(units) for each in window),
                    *(_later(each, units, period) for each in row[begin:]),
                ]
                for row, window, (begin, _) in zip(rows, windows, cuts, strict=True)
            ]
    return None


def streams(rows: PassRows) -> Iterator[Iterator[int]]:
    """The streams of each row, in order."""
    return ((stream for _, _, stream, _ in row) for row in rows)


def _later(each: Pass, units: int, period: int) -> Pass:
    cell, rank, stream, unit = each
    return cell + units * period, rank, stream, unit + units
