"""What the ranks say of themselves, and who is to blame when they all wait."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from longpipe.runtime.processes import State
from longpipe.runtime.progress import Progress


class Sign(NamedTuple):
    """A rank's sign of life: its place in words, what it waits for, from whom, since when."""

    beat: int
    place: str
    waits_for: str | None
    waits_on: int | None
    for_s: float

    @classmethod
    def of(cls, progress: Progress, beat: int, for_s: float) -> "Sign":
        """The present sign of a rank that has been at its place `for_s` seconds."""
        wait = progress.waiting
        what, rank = (None, None) if wait is None else wait
        return cls(beat, progress.place(), what, rank, for_s)

    @classmethod
    def from_json(cls, text: bytes) -> "Sign":
        """From what `to_json` gave."""
        return cls(*json.loads(text))

    def to_json(self) -> str:
        """As text."""
        return json.dumps(self)

    def __str__(self) -> str:
        wait = f"waits for {self.waits_for}" if self.waits_for else "works"
        source = f" from rank {self.waits_on}" if self.waits_on is not None else ""
        return f"at {self.place}, {wait}{source}, since {self.for_s:.1f} s"


@dataclass(slots=True)
class Places:
    """The last sign of each rank, when it was first seen on this rank's clock, and who has left."""

    left: set[int] = field(default_factory=set)  # ended as they should
    _seen: dict[int, tuple[Sign, float]] = field(default_factory=dict)

    def note(self, rank: int, sign: Sign, now_s: float) -> None:
        """Take a sign read from the store; an unchanged one does not count as life."""
        last = self._seen.get(rank)
        if last is None or last[0].beat != sign.beat:
            self._seen[rank] = (sign, now_s)

    def sign(self, rank: int) -> Sign | None:
        """The last sign of a rank."""
        return self._seen[rank][0] if rank in self._seen else None

    def silence_s(self, rank: int, now_s: float) -> float:
        """Seconds since a rank's last sign; 0 if none was ever read."""
        return now_s - self._seen[rank][1] if rank in self._seen else 0.0

    def complete(self, ranks: int) -> bool:
        """Whether every rank has given a sign."""
        return len(self._seen) == ranks


@dataclass(slots=True)
class Suspects:
    """The ranks that look lifeless, and since when; whatever they and this rank are doing."""

    _since: dict[int, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._since)

    def forget(self) -> None:
        """Begin anew: this process was stopped itself."""
        self._since.clear()

    def find(
        self,
        places: Places,
        states: Mapping[int, State],
        now_s: float,
        *,
        read_s: float,
        timeout_s: float,
        silent_s: float,
    ) -> int | None:
        """A rank that is dead, or has been stopped for `timeout_s` or silent for `silent_s`.

        The ranks' places were last read at `read_s`: a rank is given only after one more look at
        what it may have said before its end.
        """
        for rank, state in states.items():
            silent = places.silence_s(rank, now_s) > silent_s
            if rank in places.left or not (state in (State.GONE, State.STOPPED) or silent):
                self._since.pop(rank, None)
                continue
            since_s = self._since.setdefault(rank, now_s)
            stopped = state is State.STOPPED and not silent
            if read_s > since_s and now_s - since_s >= (timeout_s if stopped else 0.0):
                return rank
        return None


class Verdict(NamedTuple):
    """Who holds up the run (None: nobody alone), and the report."""

    culprit: int | None
    text: str


def judge(
    rank: int, places: Places, states: Mapping[int, State], now_s: float, silent_s: float
) -> Verdict:
    """Follow the waits from `rank` to the rank that holds everyone up."""

    def lifeless(other: int) -> bool:
        silent = places.sign(other) is None or places.silence_s(other, now_s) > silent_s
        return states[other] in (State.GONE, State.STOPPED) or silent

    def describe(other: int) -> str:
        sign = places.sign(other)
        state = states[other]
        if state in (State.GONE, State.STOPPED):
            return f"rank {other} is {state}; last seen {sign}"
        if lifeless(other):
            silence_s = places.silence_s(other, now_s)
            return f"rank {other} has given no sign of life for {silence_s:.0f} s; last seen {sign}"
        return f"rank {other} {sign}"

    chain = [rank]
    while not lifeless(chain[-1]):
        sign = places.sign(chain[-1])
        if sign is None or sign.waits_for is None:
            break
        following = sign.waits_on
        if following is None:  # all ranks together: who is not there?
            following = next(filter(lifeless, states), _works(places, states))
            if following is None:
                return Verdict(None, "the run hangs. " + "; ".join(map(describe, states)))
        if following in chain:
            cycle = ", ".join(f"rank {other}" for other in chain[chain.index(following) :])
            told = "; ".join(map(describe, chain))
            return Verdict(None, f"the run hangs: {cycle} wait for each other. {told}")
        chain.append(following)
    told = "; ".join(map(describe, chain))
    return Verdict(chain[-1], f"the run hangs: rank {chain[-1]} holds it up. {told}")


def _works(places: Places, states: Mapping[int, State]) -> int | None:
    """The rank that has worked longest without waiting for anybody."""
    working = [
        (sign.for_s, rank)
        for rank in states
        if (sign := places.sign(rank)) is not None and sign.waits_for is None
    ]
    return max(working)[1] if working else None
