"""The zero bubble paper's heuristic (arXiv:2401.10241, section 3.1), with a cost for each op.

The paper's "B" is our `I`, its "stage" our rank. It walks the pipeline unit by unit: on every rank
an F (or none, if a later rank would rather have its gradient first), then on every rank an I, with
W's put into the gaps before them and wherever memory must be freed. Three yes-or-no knobs; the
best of the eight results counts.
"""

from itertools import product
from typing import NamedTuple

from longpipe.schedules._zb_streams import Letters, Streams


class Knobs(NamedTuple):
    """The paper's three choices."""

    bubble_before_first_i: bool  # extra warm-up F's may start as long as the first I has not
    prioritise_i: bool  # leave out an F that would delay the next I
    fill_small_gaps: bool  # with a W that is longer, even if the largest bubble would not grow


GRID = tuple(Knobs(*choice) for choice in product((True, False), repeat=3))


def heuristic(streams: Streams, knobs: Knobs) -> Letters | None:
    """The rows that the heuristic makes with these knobs; None: they do not fit the memory."""
    state = _State(streams, knobs)
    try:
        state.warm_up()
        for unit in range(1, streams.units):
            state.forwards(unit)
            state.backwards()
    except _FullError:
        return None
    return tuple("".join(row) + "W" * (streams.units - row.count("W")) for row in state.rows)


class _FullError(Exception):
    """An op needs memory that no pending W can free."""


class _State:
    """Where each rank stands: ops run, clock, cells held, idle time since its first F."""

    def __init__(self, streams: Streams, knobs: Knobs) -> None:
        ranks = streams.ranks
        self.streams, self.knobs = streams, knobs
        self.rows: list[list[str]] = [[] for _ in range(ranks)]
        self.done = {letter: [0] * ranks for letter in "FIW"}
        self.clock: list[float] = [0] * ranks
        self.held: list[float] = [0] * ranks
        self.bubble: list[float] = [0] * ranks
        self.largest_bubble: float = 0
        # When the next input arrives: from the rank before for F, from the rank after for I.
        self.arrival = {letter: [[0.0] * streams.units for _ in range(ranks)] for letter in "FI"}

    def ticks(self, letter: str, rank: int, ahead: int = 0) -> float:
        """Ticks of the rank's next op of a kind, or of the one `ahead` after it."""
        return self.streams.ticks[letter][rank][self.done[letter][rank] + ahead]

    def cells(self, letter: str, rank: int, ahead: int = 0) -> float:
        """Cells that it adds."""
        return self.streams.holds[letter][rank][self.done[letter][rank] + ahead]

    def pending(self, rank: int) -> int:
        """W's that could run."""
        return self.done["I"][rank] - self.done["W"][rank]

    def put(self, letter: str, rank: int) -> None:
        """Run the rank's next op of a kind."""
        streams, at = self.streams, self.done[letter][rank]
        start = self.clock[rank]
        if letter != "W":
            start = max(start, self.arrival[letter][rank][at])
            if self.done["F"][rank]:
                self.bubble[rank] += start - self.clock[rank]
                self.largest_bubble = max(self.largest_bubble, self.bubble[rank])
        end = self.clock[rank] = start + self.ticks(letter, rank)
        self.held[rank] += self.cells(letter, rank)
        step = {"F": 1, "I": -1, "W": 0}[letter]
        if step and 0 <= rank + step < streams.ranks:
            self.arrival[letter][rank + step][at] = end + streams.delay[letter][rank][at]
        self.done[letter][rank] = at + 1
        self.rows[rank].append(letter)

    def warm_up(self) -> None:
        """The first micro-batch's F's, extra F's until the first gradient comes, the first I's."""
        ranks = self.streams.ranks
        for rank in range(ranks):
            for _ in range(self.streams.needed[0]):
                self.make_room("F", rank)
                self.put("F", rank)
        extra = self._extra_forwards()
        for rank in range(1, ranks):
            if self.done["F"][rank - 1] + extra[rank - 1] < self.streams.units:
                extra[rank] = min(extra[rank], max(extra[rank - 1] - 1, 0))
        for rank in range(ranks):
            for _ in range(extra[rank]):
                self.put("F", rank)
        self.backwards()

    def _extra_forwards(self) -> list[int]:
        """Per rank, the F's that memory and the time until the first gradient's arrival allow."""
        streams, last = self.streams, self.streams.ranks - 1
        extra = [0] * streams.ranks
        gradient = self.clock[last] + self.ticks("I", last)  # end of the first I, rank by rank
        for rank in reversed(range(last)):
            arrival = gradient + streams.delay["I"][rank + 1][0]
            held, clock = self.held[rank], self.clock[rank]
            while self.done["F"][rank] + extra[rank] < streams.units:
                held += self.cells("F", rank, extra[rank])
                after = clock + self.ticks("F", rank, extra[rank])
                late = after > arrival if self.knobs.bubble_before_first_i else clock >= arrival
                if late or held > streams.limit[rank]:
                    break
                clock = after
                extra[rank] += 1
            gradient = max(clock, arrival) + self.ticks("I", rank)
        return extra

    def forwards(self, unit: int) -> None:
        """The F's before I number `unit`: one on each rank where it is wanted, all that I needs."""
        streams, done = self.streams, self.done["F"]
        wanted = [int(self._wants_forward(rank)) for rank in range(streams.ranks)]
        for rank in reversed(range(streams.ranks - 1)):
            wanted[rank] = min(wanted[rank], wanted[rank + 1])
        for rank in range(streams.ranks):
            must = streams.needed[unit] - done[rank]
            for turn in range(max(wanted[rank], must)):
                if turn >= must and not self._can_forward(rank):
                    continue
                self.make_room("F", rank)
                self.fill_gap("F", rank)
                self.put("F", rank)

    def _can_forward(self, rank: int) -> bool:
        """Whether an F that nobody needs yet has its input and can have its memory."""
        done = self.done["F"][rank]
        if done == self.streams.units or (rank and self.done["F"][rank - 1] <= done):
            return False
        held = self.held[rank] + self.cells("F", rank)
        held += sum(self.cells("W", rank, ahead) for ahead in range(self.pending(rank)))
        return held <= self.streams.limit[rank]

    def _wants_forward(self, rank: int) -> bool:
        """The paper's choice: an F now, or the next gradient first."""
        streams, done = self.streams, self.done["F"]
        if done[rank] == streams.units:
            return False
        after = rank + 1
        ahead = after < streams.ranks and done[rank] >= done[after] + 2
        if not (ahead and self.knobs.prioritise_i):
            return True
        arrival = self.clock[after] + self.ticks("F", after) + self.ticks("I", after)
        arrival += streams.delay["I"][after][self.done["I"][after]]
        if self.clock[rank] >= arrival:
            return False
        if self.clock[rank] + self.ticks("F", rank) + self._ticks_to_free(rank) <= arrival:
            return True
        return arrival - self.clock[rank] > self.largest_bubble - self.bubble[rank]

    def _ticks_to_free(self, rank: int) -> float:
        """Ticks of the W's that must run before the next F fits."""
        held, ticks, turn = self.held[rank] + self.cells("F", rank), 0.0, 0
        while held > self.streams.limit[rank] and turn < self.pending(rank):
            held += self.cells("W", rank, turn)
            ticks += self.ticks("W", rank, turn)
            turn += 1
        return ticks

    def backwards(self) -> None:
        """The next I of each rank, from the last to the first."""
        for rank in reversed(range(self.streams.ranks)):
            if self.done["I"][rank]:
                self.make_room("I", rank)
                self.fill_gap("I", rank)
                if rank == 0 and self.done["F"][0] == self.streams.units:
                    self._drain(0)  # nobody waits for the gradients of the first rank
            self.put("I", rank)

    def _drain(self, rank: int) -> None:
        for _ in range(self.pending(rank)):
            self.put("W", rank)

    def make_room(self, letter: str, rank: int) -> None:
        """Run W's until the next op fits."""
        while self.held[rank] + self.cells(letter, rank) > self.streams.limit[rank]:
            if not self.pending(rank):
                raise _FullError
            self.put("W", rank)

    def fill_gap(self, letter: str, rank: int) -> None:
        """Run W's while they end before the next op's input comes, and perhaps one that is longer.

        It delays the op, but keeps a bubble away; the knob says whether to run it where the bubble
        would not make this rank the worst.
        """
        arrival = self.arrival[letter][rank][self.done[letter][rank]]
        while self.pending(rank) and self.clock[rank] + self.ticks("W", rank) <= arrival:
            self.put("W", rank)
        gap = arrival - self.clock[rank]
        if not self.pending(rank) or gap <= 0:
            return
        if self.knobs.fill_small_gaps or gap > self.largest_bubble - self.bubble[rank]:
            self.put("W", rank)
