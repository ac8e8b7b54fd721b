"""Orders in which no rank waits with work at hand: list scheduling for the zero-bubble search.

The paper's heuristic walks the pipeline in rounds, an F and an I on every rank, and loses time
where memory holds fewer micro-batches than there are ranks. Here each rank takes what is ready: I
or F, as `order` ranks them, else a W. Going through the ops by the time at which they start, a
rank knows no more than which messages are under way.
"""

from heapq import heappop, heappush
from itertools import product
from typing import NamedTuple

from longpipe.schedules._zb_streams import Letters, Streams


class Rule(NamedTuple):
    """How a rank chooses."""

    order: str  # "IF" or "FI": which one first where both are ready
    lean: bool  # no more F's ahead of the I's than 1F1B has
    patience: float  # wait for an input that arrives within this share of the next W's ticks


RULES = tuple(Rule(*choice) for choice in product(("IF", "FI"), (True, False), (1.0, 0.5)))


def as_ready(streams: Streams, rule: Rule) -> Letters | None:
    """The rows under this rule; None: they get stuck within the memory."""
    state = _State(streams, rule)
    while state.events:
        now, rank = heappop(state.events)
        if state.clock[rank] <= now:
            letter = state.choose(rank, now)
            if letter:
                state.run(letter, rank, now)
    if any(len(row) < 3 * streams.units for row in state.rows):
        return None
    return tuple(map("".join, state.rows))


class _State:
    """Where each rank stands, and the events ahead: a rank gets free, or a message arrives."""

    def __init__(self, streams: Streams, rule: Rule) -> None:
        ranks, units = streams.ranks, streams.units
        self.streams, self.rule = streams, rule
        self.rows: list[list[str]] = [[] for _ in range(ranks)]
        self.done = {letter: [0] * ranks for letter in "FIW"}
        self.clock: list[float] = [0] * ranks
        self.held: list[float] = [0] * ranks
        self.events: list[tuple[float, int]] = [(0, rank) for rank in range(ranks)]
        self.arrival: dict[str, list[list[float]]] = {
            letter: [[] for _ in range(ranks)] for letter in "FI"
        }
        self.arrival["F"][0] = [0] * units
        self.arrival["I"][-1] = [0] * units
        widest = streams.problem.segments_max
        self.ahead = [ranks - rank + widest - 1 if rule.lean else units for rank in range(ranks)]

    def choose(self, rank: int, now: float) -> str:
        """The letter that the rank runs now; "" to wait for the next event."""
        soonest = float("inf")
        for letter in self.rule.order:
            arrival = self._arrival(letter, rank)
            if arrival is not None and arrival <= now:
                return letter
            if arrival is not None:
                soonest = min(soonest, arrival)
        at = self.done["W"][rank]
        if at < self.done["I"][rank]:
            wait = self.rule.patience * self.streams.ticks["W"][rank][at]
            return "W" if soonest - now >= wait else ""
        return ""

    def _arrival(self, letter: str, rank: int) -> float | None:
        """When the input of the rank's next F or I arrives; None: not known, or not allowed."""
        streams, at = self.streams, self.done[letter][rank]
        if at >= len(self.arrival[letter][rank]):
            return None
        if self.held[rank] + streams.holds[letter][rank][at] > streams.limit[rank]:
            return None
        backward = self.done["I"][rank]
        if letter == "I":
            allowed = self.done["F"][rank] >= streams.needed[at]
        else:
            allowed = at - backward < self.ahead[rank] or at < streams.needed[backward]
        return self.arrival[letter][rank][at] if allowed else None

    def run(self, letter: str, rank: int, now: float) -> None:
        """Run the rank's next op of a kind; tell the rank, and the one that gets its result."""
        streams, at = self.streams, self.done[letter][rank]
        end = self.clock[rank] = now + streams.ticks[letter][rank][at]
        self.held[rank] += streams.holds[letter][rank][at]
        self.done[letter][rank] = at + 1
        self.rows[rank].append(letter)
        heappush(self.events, (end, rank))
        other = rank + {"F": 1, "I": -1, "W": 0}[letter]
        if other != rank and 0 <= other < streams.ranks:
            arrival = end + streams.delay[letter][rank][at]
            self.arrival[letter][other].append(arrival)
            heappush(self.events, (arrival, other))
