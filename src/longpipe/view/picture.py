"""The text picture of a Timeline: a row for each rank, time to the right.

`.` is idle, `-` goes on with the op before, `&` joins two ops that ran fused. Two forms. A grid has
a column for each tick, so that it is exact and goldens can hold it. Where times share no tick, or
the grid would not fit, a strip shows each op in proportion to its time, with its name where there
is room and its kind otherwise.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm
from typing import NamedTuple

from longpipe.ir import COMPUTE, Event, Timeline
from longpipe.simulate import small_fraction
from longpipe.view.quantity import exact

_GRID_EVENTS = 5_000  # above this nobody reads a grid
_GRID_BLOCKS = 3  # a grid may fold this often before a strip says more


def picture(timeline: Timeline, width: int | None = None) -> str:
    """Draw the compute ops; at most `width` characters wide, or one unfolded grid if None.

    What runs beside compute is left to the HTML page and to traces.

    >>> from longpipe.cost import UniformCosts
    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> from longpipe.simulate import simulate
    >>> problem = Problem(ranks=2, microbatches=2)
    >>> print(picture(simulate(build("1f1b", problem), UniformCosts(problem))))
    # ir 1 | 1f1b ranks=2 microbatches=2 | makespan 9
    r0 0F0 0F1 .   .   0B0 -   .   0B1 -
    r1 .   1F0 1B0 -   1F1 1B1 -   .   .
    """
    labels = _labels(timeline.ranks)
    grid = _grid(timeline)
    lines = None if grid is None else _fold(labels, grid, width)
    if lines is None:
        columns = max((width or 100) - len(labels[0]), 10)
        rows = (strip(row, timeline.makespan_s, columns) for row in timeline.rows)
        lines = [label + row for label, row in zip(labels, rows, strict=True)]
    return "\n".join([header(timeline), *lines])


def header(timeline: Timeline) -> str:
    """The line above a picture."""
    source = [] if timeline.source == "simulated" else [timeline.source]
    makespan = f"makespan {exact(timeline.makespan_s)}"
    return " | ".join(["# ir 1", timeline.name, *source, makespan])


def strip(row: Sequence[Event], until_s: float, columns: int) -> str:
    """One rank from 0 to `until_s` in `columns` characters; of ops in one cell the longest shows.

    >>> from longpipe.ir import Op
    >>> strip([Event(Op.parse("0F0"), 0, 5), Event(Op.parse("0B0"), 6, 7)], until_s=8, columns=16)
    '0F0-------..B-..'
    """
    if until_s <= 0:
        return "." * columns
    cells = ["."] * columns
    longest = [0.0] * columns
    for event in _compute(row):
        first, stop = (round(t / until_s * columns) for t in (event.start_s, event.end_s))
        first = min(first, columns - 1)
        text = str(event.op) if stop - first > len(str(event.op)) else event.op.kind.value
        text = text.ljust(stop - first, "-")
        for cell, letter in enumerate(text, start=first):
            if event.end_s - event.start_s > longest[cell]:
                cells[cell], longest[cell] = letter, event.end_s - event.start_s
    return "".join(cells)


def _compute(row: Sequence[Event]) -> Iterator[Event]:
    return (event for event in row if event.op.kind in COMPUTE)


def _labels(ranks: int) -> list[str]:
    width = len(f"r{ranks - 1} ")
    return [f"r{rank}".ljust(width) for rank in range(ranks)]


class _Grid(NamedTuple):
    cell: int  # characters of a column
    tick: Fraction  # time of a column
    rows: list[list[str]]


def _grid(timeline: Timeline) -> _Grid | None:
    """A cell for each tick; None if the times share no tick, or far too many."""
    rows = [list(_compute(row)) for row in timeline.rows]
    makespan = timeline.makespan_s
    if makespan <= 0 or sum(map(len, rows)) > _GRID_EVENTS:
        return None
    times = {time for row in rows for event in row for time in (event.start_s, event.end_s)}
    times.add(makespan)  # gradients may be reduced after the last of them
    exact = {time: small_fraction(time, makespan) for time in times}
    found = {time: fraction for time, fraction in exact.items() if fraction is not None}
    if len(found) < len(exact):
        return None
    scale = lcm(*(time.denominator for time in found.values()))
    tick = Fraction(gcd(*(int(time * scale) for time in found.values())), scale)
    if makespan / tick > _GRID_EVENTS:
        return None
    index = {time: int(fraction / tick) for time, fraction in found.items()}
    cell = max(len(str(event.op)) for row in rows for event in row) + 1
    grid = _Grid(cell, tick, [_cells(row, index, index[makespan]) for row in rows])
    for row, cells in zip(rows, grid.rows, strict=True):
        for first, second in pairwise(row):
            if (first.op, second.op) in timeline.pairs:
                before = max(index[second.start_s] - 1, 0)
                cells[before] = cells[before].ljust(cell - 1) + "&"
    return grid


def _cells(row: Sequence[Event], index: dict[float, int], ticks: int) -> list[str]:
    cells = ["."] * ticks
    for event in row:
        start, end = index[event.start_s], index[event.end_s]
        cells[start:end] = [str(event.op), *["-"] * (end - start - 1)][: end - start]
    return cells


def _fold(labels: Sequence[str], grid: _Grid, width: int | None) -> list[str] | None:
    """Lines of at most `width` characters; None if it takes too many blocks."""
    ticks = len(grid.rows[0])
    room = ticks if width is None else max((width - len(labels[0])) // grid.cell, 1)
    if ticks > _GRID_BLOCKS * room:
        return None
    lines = []
    for start in range(0, ticks, room):
        if ticks > room:
            lines.append(f"time {exact(float(start * grid.tick))}")
        for label, row in zip(labels, grid.rows, strict=True):
            cells = (cell.ljust(grid.cell) for cell in row[start : start + room])
            lines.append((label + "".join(cells)).rstrip())
    return lines
