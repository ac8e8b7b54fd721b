"""W's put into the idle time of rows of F's and I's, with the real costs."""

from collections.abc import Sequence

from longpipe.schedules._streams import Row, Streams


def fill_weights(streams: Streams, rows: Sequence[Row], share: float) -> list[Row] | None:
    """Rows with a W, the oldest due, before an op that waits at least `share` of the W's time.

    W's also run where an op would not fit the memory. With share 1 no op starts later than it
    must; with less, some do, and in return fewer W's are left for the end. None if the F's and I's
    cannot go on, or do not fit.
    """
    stages, own = streams.stages, streams.own
    ends: list[list[float]] = [[] for _ in range(3 * stages)]
    at = [0] * len(rows)
    lanes = [_Lane(streams, limit, share, ends) for limit in streams.limit]
    waiting: dict[int, int] = {}  # stream -> rank that waits for its next unit
    ready = list(range(len(rows)))
    while ready:
        rank = ready.pop()
        row = rows[rank]
        while at[rank] < len(row):
            stream = row[at[rank]]
            unit = len(ends[stream])
            if stream >= stages and len(ends[stream - stages]) <= own[unit]:
                return None
            source = stream - 1 if stream < stages else stream + 1
            arrival: float = 0
            if source >= 0 and source != 2 * stages:
                if len(ends[source]) <= unit:
                    waiting[source] = rank
                    break
                arrival = ends[source][unit] + streams.delay[source][unit]
            if not lanes[rank].run(stream, unit, arrival):
                return None
            at[rank] += 1
            if stream in waiting:
                ready.append(waiting.pop(stream))
    if waiting:
        return None
    return [lane.drained() for lane in lanes]


class _Lane:
    """One rank: its row so far, its clock, the cells it holds, the W's that are due."""

    def __init__(
        self, streams: Streams, limit: float, share: float, ends: list[list[float]]
    ) -> None:
        self.streams, self.limit, self.share, self.ends = streams, limit, share, ends
        self.row: Row = []
        self.due: list[int] = []  # streams of W's, the oldest first
        self.next_due = 0
        self.clock: float = 0
        self.held: float = 0

    def run(self, stream: int, unit: int, arrival: float) -> bool:
        """W's as they fit before the op, then the op; False if it does not fit the memory."""
        streams = self.streams
        cells = streams.holds[stream][unit]
        while self.next_due < len(self.due):
            weight = self.due[self.next_due]
            gap = arrival - self.clock
            ticks = streams.ticks[weight][len(self.ends[weight])]
            fills = gap > 0 and gap >= self.share * ticks
            if not fills and self.held + cells <= self.limit:
                break
            self._weight()
        if self.held + cells > self.limit:
            return False
        self._put(stream, max(self.clock, arrival))
        if stream >= streams.stages:
            self.due.append(stream + streams.stages)
        return True

    def drained(self) -> Row:
        """The row with all W's."""
        while self.next_due < len(self.due):
            self._weight()
        return self.row

    def _weight(self) -> None:
        self._put(self.due[self.next_due], self.clock)
        self.next_due += 1

    def _put(self, stream: int, start: float) -> None:
        unit = len(self.ends[stream])
        self.clock = start + self.streams.ticks[stream][unit]
        self.held += self.streams.holds[stream][unit]
        self.ends[stream].append(self.clock)
        self.row.append(stream)
