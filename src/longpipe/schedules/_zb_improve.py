"""The improvement step of the zero-bubble search: tabu search on the critical path.

The makespan and the span are each the longest path to some rank's last op. A path is cut into
blocks, ops that one rank runs without a pause; it gets shorter only where an op leaves a block:
one that the block's last op need not wait for goes behind that op, or one goes before the block's
first op, into the pause (Nowicki and Smutnicki's neighbourhood for job shops, Management Science
42(6), 1996). With it may go the W's whose memory the op needs.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

from longpipe.schedules._zb_streams import Letters, Outcome, Run, Streams, allowed, run

Score = Callable[[Outcome], tuple[float, ...]]
_STALE = 20  # steps without a better result after which the search ends


def improve(streams: Streams, letters: Letters, score: Score, runs: int) -> Letters:
    """The best rows found from `letters` within so many runs: least score, never worse.

    Each step goes to the best neighbour not yet seen, even if it is worse than the present rows.
    """
    here, now = letters, run(streams, letters)
    assert now is not None, "the search starts from rows that run to their end"
    best, least = letters, score(now.outcome)
    seen = {letters}
    stale = 0
    while stale < _STALE and runs > 0:
        step: tuple[tuple[float, ...], Letters, Run] | None = None
        for row_change in _neighbours(streams, here, now):
            if row_change in seen:
                continue
            seen.add(row_change)
            found = run(streams, row_change)
            runs -= 1
            if found is None:
                continue
            reached = score(found.outcome)
            if step is None or reached < step[0]:
                step = (reached, row_change, found)
            if reached < least:
                break
        if step is None:
            break
        reached, here, now = step
        stale += 1
        if reached < least:
            best, least, stale = here, reached, 0
    return best


def _neighbours(streams: Streams, letters: Letters, now: Run) -> Iterator[Letters]:
    """Rows with one op moved out of a critical block, as far as a rank alone can tell legal."""
    for rank, first, last in _blocks(streams, letters, now):
        row = letters[rank]
        for changed in _moves(row, first, last):
            if allowed(streams, rank, changed):
                yield (*letters[:rank], changed, *letters[rank + 1 :])


def _moves(row: str, first: int, last: int) -> Iterator[str]:
    """The row with an op moved behind position `last`, or before position `first`."""
    for letter in "WFI":
        if letter != row[last]:
            at = row.rfind(letter, first, last)
            if at >= 0:
                yield row[:at] + row[at + 1 : last + 1] + letter + row[last + 1 :]
        if letter != row[first]:
            at = row.find(letter, first, last + 1)
            if at >= 0:
                head, body = row[:first], row[first:at] + row[at + 1 :]
                yield head + letter + body
                freed = body.find("W")
                if letter != "W" and freed >= 0:
                    yield head + "W" + letter + body[:freed] + body[freed + 1 :]


def _blocks(streams: Streams, letters: Letters, now: Run) -> Iterator[tuple[int, int, int]]:
    """(rank, first, last position) of the blocks of the longest paths, without repeats."""
    found = set()
    begins = [start[0] for start in now.starts]
    spans = [end[-1] - begin for end, begin in zip(now.ends, begins, strict=True)]
    goals = {max(range(streams.ranks), key=spans.__getitem__)}
    goals.add(max(range(streams.ranks), key=lambda rank: now.ends[rank][-1]))
    places = [_places(row) for row in letters]
    for goal in sorted(goals):
        for block in _path(streams, letters, now, places, goal):
            if block not in found:
                found.add(block)
                yield block


def _places(row: str) -> dict[str, list[int]]:
    """Positions of the letters in a row."""
    places: dict[str, list[int]] = {letter: [] for letter in "FIW"}
    for position, letter in enumerate(row):
        places[letter].append(position)
    return places


def _path(
    streams: Streams, letters: Letters, now: Run, places: list[dict[str, list[int]]], goal: int
) -> Iterator[tuple[int, int, int]]:
    """The blocks of a longest path to the end of a rank, from the last to the first."""
    rank, position = goal, len(letters[goal]) - 1
    while True:
        last = position
        starts, ends = now.starts[rank], now.ends[rank]
        while position and ends[position - 1] >= starts[position]:
            position -= 1
        yield rank, position, last
        if not position and starts[0] == 0:
            return
        letter = letters[rank][position]
        at = bisect_left(places[rank][letter], position)
        rank += -1 if letter == "F" else 1
        position = places[rank][letter][at]
