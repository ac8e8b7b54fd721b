"""The zero bubble paper's integer program (arXiv:2401.10241, appendix G) as rows and columns.

A column is a number that the solver chooses: the end of each op, and for each pair of ops of
different kinds on a rank whether the first comes before the second (0 or 1). The order within a
kind is fixed. Beyond the paper there are the bounds of `_exact_windows`, which fix most pairs, and
rows that follow from the others but tell the solver more: an op ends no earlier than all ops before
it take, and leaves time for all after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from longpipe.plan._exact_windows import Slot, windows
from longpipe.schedules._zb_streams import Letters, Streams


@dataclass(slots=True)
class Line:
    """A constant plus columns times factors."""

    constant: float = 0.0
    factors: dict[int, float] = field(default_factory=dict)

    def add(self, other: "Line", factor: float = 1.0) -> "Line":
        """Add another line, times a factor, to this one."""
        self.constant += factor * other.constant
        for column, value in other.factors.items():
            self.factors[column] = self.factors.get(column, 0.0) + factor * value
        return self


class ImpossibleError(Exception):
    """A row that no choice of columns can meet."""


class Model:
    """Columns with their bounds, and rows `line >= 0`; column 0 is the span, to be least."""

    def __init__(self, ops: Streams, least: float, most: float) -> None:
        """The program for orders with a span from `least` to `most`."""
        self.columns: list[tuple[float, float, bool]] = []  # lower, upper, whole number
        self.rows: list[Line] = []
        self._ops = ops
        self._windows = windows(ops, most)
        self._orders: dict[tuple[Slot, Slot], Line] = {}
        self._span = self._column(least, most)
        self._ends: dict[Slot, Line] = {}
        for slot in self._slots():
            self._ends[slot] = self._column(self._windows.first[slot], self._windows.last[slot])
        for rank in range(ops.ranks):
            self._chains(rank)
            self._pairs(rank)
            self._staircases(rank)
            for slot in self._slots(rank):
                self._work_around(slot)
                self._memory(slot)

    @property
    def choices(self) -> int:
        """Columns that are 0 or 1."""
        return sum(whole for _, _, whole in self.columns)

    def letters(self, values: list[float]) -> Letters:
        """The rows that the solver's columns describe."""
        return tuple(self._row(rank, values) for rank in range(self._ops.ranks))

    def _row(self, rank: int, values: list[float]) -> str:
        def before(slot: Slot) -> int:
            """Ops of the rank before this one."""
            others = (self._order(other, slot) for other in self._slots(rank) if other != slot)
            return sum(
                round(line.constant + sum(f * values[c] for c, f in line.factors.items()))
                for line in others
            )

        return "".join(slot[0] for slot in sorted(self._slots(rank), key=before))

    def _slots(self, rank: int | None = None) -> Iterator[Slot]:
        ranks = range(self._ops.ranks) if rank is None else (rank,)
        return ((x, r, at) for r in ranks for x in "FIW" for at in range(self._ops.units))

    def _ticks(self, slot: Slot) -> float:
        letter, rank, at = slot
        return self._ops.ticks[letter][rank][at]

    def _column(self, lower: float, upper: float, whole: bool = False) -> Line:
        if lower > upper:
            raise ImpossibleError
        self.columns.append((lower, upper, whole))
        return Line(0.0, {len(self.columns) - 1: 1.0})

    def _at_least(self, line: Line) -> None:
        """Demand that a line be 0 or more."""
        if line.factors:
            self.rows.append(line)
        elif line.constant < -1e-9:
            raise ImpossibleError

    def _order(self, one: Slot, other: Slot) -> Line:
        """1 if `one` comes before `other` on their rank, else 0: known, or a column."""
        if one[0] > other[0]:
            return Line(1.0).add(self._order(other, one), -1.0)
        if (one, other) not in self._orders:
            known = self._known_order(one, other)
            line = self._column(0, 1, whole=True) if known is None else Line(float(known))
            self._orders[one, other] = line
        return self._orders[one, other]

    def _known_order(self, one: Slot, other: Slot) -> bool | None:
        (letter, _, at), (kind, _, to) = one, other
        if letter == kind:
            return at < to
        if letter == "F" and at < self._ops.needed[to]:  # of the I, and so of its W
            return True
        if letter == "I" and at <= to:
            return True
        first, last = self._windows.first, self._windows.last
        if first[one] > last[other] - self._ticks(other) + 1e-9:
            return False
        return True if first[other] > last[one] - self._ticks(one) + 1e-9 else None

    def _after(self, slot: Slot, other: Slot, delay: float = 0.0, free: Line | None = None) -> None:
        """`slot` starts when `other` has ended; not so, if `free` is 1."""
        line = Line(-self._ticks(slot) - delay).add(self._ends[slot]).add(self._ends[other], -1.0)
        if free is not None:
            first, last = self._windows.first[slot], self._windows.last[other]
            line.add(free, max(last + self._ticks(slot) - first, 0.0))
        self._at_least(line)

    def _chains(self, rank: int) -> None:
        """The data flow, the order within a kind, and the span."""
        ops = self._ops
        for at in range(ops.units):
            for letter in "FIW":
                if at:
                    self._after((letter, rank, at), (letter, rank, at - 1))
            if rank:
                self._after(("F", rank, at), ("F", rank - 1, at), ops.delay["F"][rank - 1][at])
            if rank + 1 < ops.ranks:
                self._after(("I", rank, at), ("I", rank + 1, at), ops.delay["I"][rank + 1][at])
            self._after(("I", rank, at), ("F", rank, ops.needed[at] - 1))
            self._after(("W", rank, at), ("I", rank, at))
        end = self._ends["W", rank, ops.units - 1]
        self._at_least(Line(self._windows.begin[rank]).add(self._span).add(end, -1.0))

    def _pairs(self, rank: int) -> None:
        """Of two ops of different kinds, one starts when the other has ended."""
        for one in self._slots(rank):
            for other in self._slots(rank):
                if one[0] < other[0]:
                    order = self._order(one, other)
                    reverse = Line(1.0).add(order, -1.0)
                    if order.factors or order.constant:
                        self._after(other, one, free=reverse if order.factors else None)
                    if order.factors or not order.constant:
                        self._after(one, other, free=order if order.factors else None)

    def _staircases(self, rank: int) -> None:
        """What comes before an op comes before the next of its kind, too."""
        units = self._ops.units
        for letter, kind in (("F", "I"), ("F", "W"), ("I", "W")):
            for at in range(units):
                for to in range(units):
                    order = self._order((letter, rank, at), (kind, rank, to))
                    if at + 1 < units:
                        later = self._order((letter, rank, at + 1), (kind, rank, to))
                        self._at_least(Line().add(order).add(later, -1.0))
                    if to + 1 < units:
                        later = self._order((letter, rank, at), (kind, rank, to + 1))
                        self._at_least(Line().add(later).add(order, -1.0))

    def _work_around(self, slot: Slot) -> None:
        """An op ends after all work before it, and before all work after it."""
        rank = slot[1]
        begin = self._windows.begin[rank]
        past = Line(-begin - self._ticks(slot)).add(self._ends[slot])
        rest = Line(begin).add(self._span).add(self._ends[slot], -1.0)
        for other in self._slots(rank):
            if other != slot:
                ticks = self._ticks(other)
                past.add(self._order(other, slot), -ticks)
                rest.add(self._order(slot, other), -ticks)
        self._at_least(past)
        self._at_least(rest)

    def _memory(self, slot: Slot) -> None:
        """What the rank holds after an op that adds memory is within its limit."""
        letter, rank, at = slot
        limit = self._ops.limit[rank]
        added = self._ops.holds[letter][rank][at]
        if added <= 0 or limit == inf:
            return
        room = Line(1.0 - added / limit)  # bytes would be too large for the solver's tolerances
        for other in self._slots(rank):
            if other != slot:
                kind, _, to = other
                room.add(self._order(other, slot), -self._ops.holds[kind][rank][to] / limit)
        self._at_least(room)
