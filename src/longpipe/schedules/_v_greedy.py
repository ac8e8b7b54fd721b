"""The zero-bubble paper's greedy generator for a V (ZB-V), with a cost for each op.

Qi et al., arXiv:2401.10241, in its long version. The paper's "B" is our `I`, its "stage" our rank.
After a warm-up that fills the V, each turn runs an I and then an F on every rank, whichever chunk
can; W's go into the gaps before them, and wherever memory must be freed. A gap too small for a W
takes one all the same if it would make the rank's bubble the largest; before I's of the second
chunk, and before F's, only if a knob says so. The bubbles of one run are allowed in the next, while
the largest shrinks.
"""

from collections import deque
from itertools import product

from longpipe.schedules._streams import Row, Streams


def greedy(streams: Streams) -> list[Row] | None:
    """The rows of the knobs with the smallest bubble; None if none of them fits the memory."""
    best: _State | None = None
    for before_i, before_f in product((True, False), repeat=2):
        found = _settled(streams, before_i, before_f)
        if found is not None and (best is None or found.largest() < best.largest()):
            best = found
    return None if best is None else best.rows


def _settled(streams: Streams, before_i: bool, before_f: bool) -> "_State | None":
    """Run after run, each with the bubbles of the one before, while the largest shrinks."""
    best: _State | None = None
    while True:
        state = _State(streams, before_i, before_f, best.bubble if best else None)
        if not state.finish() or (best and state.largest() >= best.largest()):
            return best
        best = state


class _FullError(Exception):
    """An op needs memory that no W can free, or an input that nobody has made."""


class _State:
    """Where each rank stands: ops run, clock, cells held, idle time since its first F."""

    def __init__(
        self,
        streams: Streams,
        before_i: bool,
        before_f: bool,
        approved: list[float] | None,
    ) -> None:
        ranks, stages = streams.problem.ranks, streams.stages
        self.streams, self.ranks = streams, ranks
        self.before_i, self.before_f = before_i, before_f
        self.approved = approved
        self.rows: list[Row] = [[] for _ in range(ranks)]
        self.ends: list[list[float]] = [[] for _ in range(3 * stages)]
        self.clock: list[float] = [0] * ranks
        self.held: list[float] = [0] * ranks
        self.bubble: list[float] = [0] * ranks
        self.due: list[deque[int]] = [deque() for _ in range(ranks)]  # streams of W's

    def finish(self) -> bool:
        """Run everything; False if it does not fit."""
        streams = self.streams
        try:
            self._warm_up()
            for _ in range(2 * (max(streams.own[:1], default=0))):
                self._forwards()
            for _ in range(2 * streams.units):
                self._backwards()
                self._forwards()
        except _FullError:
            return False
        for rank in range(self.ranks):
            while self.due[rank]:
                self._weight(rank)
        return all(len(made) == streams.units for made in self.ends)

    def largest(self) -> float:
        """The largest bubble of a rank."""
        return max(self.bubble)

    def _stream(self, kind: int, chunk: int, rank: int) -> int:
        stages = self.streams.stages
        return kind * stages + (stages - 1 - rank if chunk else rank)

    def _count(self, kind: int, chunk: int, rank: int) -> int:
        return len(self.ends[self._stream(kind, chunk, rank)])

    def _source(self, stream: int) -> int | None:
        """The stream of another rank, or of the other chunk, whose output a stream takes."""
        stages = self.streams.stages
        if stream < stages:
            return stream - 1 if stream else None
        return stream + 1 if stream + 1 < 2 * stages else None

    def _arrival(self, stream: int) -> float | None:
        """When the next unit's input comes; None: it is not made yet, or the model's own."""
        source, unit = self._source(stream), len(self.ends[stream])
        if source is None or unit >= len(self.ends[source]):
            return None
        return self.ends[source][unit] + self.streams.delay[source][unit]

    def _put(self, stream: int, rank: int) -> None:
        """Run the next unit of a stream."""
        streams, unit = self.streams, len(self.ends[stream])
        stages = streams.stages
        cells = streams.holds[stream][unit]
        if self.held[rank] + cells > streams.limit[rank] and cells > 0:
            raise _FullError
        start = self.clock[rank]
        if stream < 2 * stages:
            arrival = self._arrival(stream)
            if arrival is None and self._source(stream) is not None:
                raise _FullError
            start = max(start, arrival or 0)
            if stream >= stages:
                if len(self.ends[stream - stages]) <= streams.own[unit]:
                    raise _FullError
                self.due[rank].append(stream + stages)
        if self.ends[rank]:  # stream `rank` is F of the rank's first chunk
            self.bubble[rank] += start - self.clock[rank]
        self.clock[rank] = start + streams.ticks[stream][unit]
        self.held[rank] += cells
        self.ends[stream].append(self.clock[rank])
        self.rows[rank].append(stream)

    def _weight(self, rank: int) -> None:
        if not self.due[rank]:
            raise _FullError
        self._put(self.due[rank].popleft(), rank)

    def _make_room(self, stream: int, rank: int) -> None:
        """Run W's until the next unit of a stream fits."""
        cells = self.streams.holds[stream][len(self.ends[stream])]
        while cells > 0 and self.held[rank] + cells > self.streams.limit[rank]:
            self._weight(rank)

    def _fill_gap(self, stream: int, rank: int, eager: bool) -> None:
        """Run W's that end before the next unit's input comes; then perhaps one that is longer."""
        arrival = self._arrival(stream)
        if arrival is None:
            return
        due = self.due[rank]
        while due and arrival >= self.clock[rank] + self._ticks(due[0]):
            self._weight(rank)
        allowed = self.largest()
        if self.approved is not None:
            allowed = max(allowed, max(self.approved) - self.approved[rank])
        if due and eager and arrival - self.clock[rank] > allowed - self.bubble[rank]:
            self._weight(rank)

    def _ticks(self, stream: int) -> float:
        return self.streams.ticks[stream][len(self.ends[stream])]

    def _warm_up(self) -> None:
        """The first unit down and up, with as many F's behind it as fit in time and memory."""
        streams, ranks = self.streams, self.ranks
        for rank in range(ranks):
            self._put(rank, rank)
        for rank in reversed(range(ranks)):
            up = self._stream(0, 1, rank)
            arrival = self._arrival(up)
            assert arrival is not None, "the last stage's input is made on this rank"
            while (
                rank < ranks - 1
                and self._count(0, 0, rank) < streams.units
                and self.held[rank] + streams.holds[rank][0] * (2 + 2 * rank) <= streams.limit[rank]
                and self.clock[rank] + self._ticks(rank) <= arrival
            ):
                for before in range(rank + 1):
                    self._put(before, before)
            self._put(up, rank)
        chunk = 0
        for rank in range(1, ranks):
            while self._behind(rank):
                for each in reversed(range(rank, ranks)):
                    if self._count(0, chunk, each) < streams.units:
                        self._put(self._stream(0, chunk, each), each)
                chunk = 1 - chunk

    def _behind(self, rank: int) -> bool:
        """Whether a rank has run fewer F's than the rank before it."""
        units = self.streams.units
        first, second = self._count(0, 0, rank), self._count(0, 1, rank)
        before = self._count(0, 0, rank - 1), self._count(0, 1, rank - 1)
        return first + second < sum(before) or second <= before[1] < units

    def _backwards(self) -> None:
        """The next I of every rank: of the first chunk where its input is there, else the second.

        I's of the first chunk travel up the ranks, those of the second down.
        """
        ups = [rank for rank in reversed(range(self.ranks)) if self._is_up(rank)]
        downs = [rank for rank in range(self.ranks) if rank not in ups]
        for ranks, chunk in ((ups, 0), (downs, 1)):
            for rank in ranks:
                stream = self._stream(1, chunk, rank)
                self._fill_gap(stream, rank, eager=chunk == 0 or self.before_i)
                self._put(stream, rank)

    def _is_up(self, rank: int) -> bool:
        """Whether the rank's next I is of its first chunk."""
        first, second = self._count(1, 0, rank), self._count(1, 1, rank)
        if first >= second:
            return False
        up = self._stream(1, 0, rank)
        return self._arrival(up) is not None or second >= self.streams.units

    def _forwards(self) -> None:
        """The next F of every rank: of the second chunk where its input is there, else first."""
        units = self.streams.units
        for rank in range(self.ranks):
            first, second = self._count(0, 0, rank), self._count(0, 1, rank)
            if second >= units:
                continue
            down, up = rank, self._stream(0, 1, rank)
            if second < first and self._arrival(up) is not None:
                stream = up
            elif first < units and (rank == 0 or self._arrival(down) is not None):
                stream = down
            else:
                continue
            self._make_room(stream, rank)
            self._fill_gap(stream, rank, eager=self.before_f)
            self._put(stream, rank)
