"""The last step of the search over a V: single ops moved on the longest path.

Cost and makespan are the longest path to some rank's last op. A path is cut into blocks, ops that
one rank runs without a pause, and gets shorter only where an op leaves a block: behind its last op,
or before its first (Nowicki and Smutnicki's moves for job shops, Management Science 42(6), 1996).
"""

from collections.abc import Callable, Iterator

from longpipe.schedules._streams import Row, Run, Streams, fits, run

Score = Callable[[Run], tuple[float, ...]]
_STALE = 12  # steps without a better result after which the search ends


def improve(
    streams: Streams, rows: list[Row], score: Score, runs: int
) -> tuple[tuple[float, ...], list[Row]]:
    """Least score, and its rows, found from `rows` within so many runs: never worse than they.

    Each step goes to the best neighbour that has not been seen, even if it is worse.
    """
    here, now = tuple(map(tuple, rows)), run(streams, rows)
    assert now is not None, "the search starts from rows that run to their end"
    best, least = here, score(now)
    seen = {here}
    stale = 0
    while stale < _STALE and runs > 0:
        step: tuple[tuple[float, ...], _Rows, Run] | None = None
        for changed in _neighbours(streams, here, now):
            if changed in seen:
                continue
            seen.add(changed)
            runs -= 1
            found = run(streams, changed)
            if found is not None and (step is None or score(found) < step[0]):
                step = (score(found), changed, found)
                if step[0] < least:
                    break
        if step is None:
            break
        reached, here, now = step
        stale += 1
        if reached < least:
            best, least, stale = here, reached, 0
    return least, list(map(list, best))


_Rows = tuple[tuple[int, ...], ...]


def _neighbours(streams: Streams, rows: _Rows, now: Run) -> Iterator[_Rows]:
    """Rows with one op moved out of a block of a longest path, as far as its rank allows it."""
    for rank, first, last in _blocks(streams, rows, now):
        row = rows[rank]
        for changed in _moves(row, first, last):
            if _is_right(streams, rank, changed):
                yield (*rows[:rank], changed, *rows[rank + 1 :])


def _moves(row: tuple[int, ...], first: int, last: int) -> Iterator[tuple[int, ...]]:
    """The row with an op moved behind position `last`, or before position `first`."""
    block = row[first : last + 1]
    for stream in sorted(set(block), reverse=True):
        if stream != row[last]:
            at = last - block[::-1].index(stream)
            yield (*row[:at], *row[at + 1 : last + 1], stream, *row[last + 1 :])
        if stream != row[first]:
            at = first + block.index(stream)
            yield (*row[:first], stream, *row[first:at], *row[at + 1 :])


def _is_right(streams: Streams, rank: int, row: tuple[int, ...]) -> bool:
    """Whether each op of the row comes after what it needs on its own rank, within the limit."""
    stages = streams.stages
    done = [0] * (3 * stages)
    for stream in row:
        unit = done[stream]
        if stream >= stages:
            needed = streams.own[unit] if stream < 2 * stages else unit
            if done[stream - stages] <= needed:
                return False
        done[stream] = unit + 1
    return fits(streams, rank, row)


def _blocks(streams: Streams, rows: _Rows, now: Run) -> Iterator[tuple[int, int, int]]:
    """(rank, first, last position) of the blocks of the longest paths, without repeats."""
    found = set()
    ranks = range(len(rows))
    goals = {
        max(ranks, key=lambda rank: now.ends[rank][-1] - now.starts[rank][0]),
        max(ranks, key=lambda rank: now.ends[rank][-1]),
    }
    places = [_places(row) for row in rows]
    for goal in sorted(goals):
        for block in _path(streams, rows, now, places, goal):
            if block not in found:
                found.add(block)
                yield block


def _places(row: tuple[int, ...]) -> dict[int, list[int]]:
    """Positions of each stream in a row."""
    places: dict[int, list[int]] = {}
    for position, stream in enumerate(row):
        places.setdefault(stream, []).append(position)
    return places


def _path(
    streams: Streams, rows: _Rows, now: Run, places: list[dict[int, list[int]]], goal: int
) -> Iterator[tuple[int, int, int]]:
    """The blocks of a longest path to the end of a rank, from the last to the first."""
    rank, position = goal, len(rows[goal]) - 1
    while True:
        last = position
        starts, ends = now.starts[rank], now.ends[rank]
        while position and ends[position - 1] >= starts[position]:
            position -= 1
        yield rank, position, last
        stream = rows[rank][position]
        if starts[position] <= 0 or not stream:
            return
        source = stream - 1 if stream < streams.stages else stream + 1
        unit = places[rank][stream].index(position)
        rank = streams.placement(source % streams.stages, 0)
        position = places[rank][source][unit]
