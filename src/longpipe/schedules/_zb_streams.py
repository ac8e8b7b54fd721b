"""What the zero-bubble search works on: each rank's three streams of ops, and rows of letters.

A rank (one stage each) runs its F's, its I's and its W's each in a fixed order: F's by micro-batch
and segment, I's micro-batches in order with the segments of each last to first, W's as their I's.
So a row is a string over F, I and W, and the n-th letter of a kind is the n-th op of that stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, inf
from typing import NamedTuple

from longpipe.errors import ProblemError
from longpipe.ir import Costs, Kind, Op, Problem, Schedule, loop
from longpipe.schedules._limit import limit_cells

Letters = tuple[str, ...]  # a row of letters for each rank
Table = list[list[float]]  # by rank, by position in the stream


@dataclass(frozen=True, slots=True)
class Streams:
    """Ticks, delays (to the neighbour that waits) and cells by letter; cells that a rank may hold.

    `needed[i]` is the number of F's that a rank must have run before its I number i: backward
    begins at the last segment of a micro-batch.
    """

    problem: Problem
    units: int
    needed: tuple[int, ...]
    ticks: dict[str, Table]
    delay: dict[str, Table]
    holds: dict[str, Table]
    limit: tuple[float, ...]

    @property
    def ranks(self) -> int:
        """Ranks, each with one stage."""
        return self.problem.ranks

    @property
    def ops(self) -> int:
        """Ops over all ranks."""
        return 3 * self.units * self.ranks


def streams(problem: Problem, costs: Costs) -> Streams:
    """Ask the cost model once for each op; the memory is not limited yet."""
    ranks = range(problem.ranks)
    units = {"F": problem.units(), "I": problem.backward_units(), "W": problem.backward_units()}
    ops = {
        letter: [[Op(Kind(letter), rank, mb, seg) for mb, seg in order] for rank in ranks]
        for letter, order in units.items()
    }

    def delays(letter: str, step: int) -> Table:
        return [
            [costs.delay(op, rank, rank + step) for op in row]
            if 0 <= rank + step < len(ranks)
            else []
            for rank, row in enumerate(ops[letter])
        ]

    ends = list(accumulate(problem.segments_of(mb) for mb in range(problem.microbatches)))
    return Streams(
        problem,
        len(units["F"]),
        tuple(ends[mb] for mb, _ in units["I"]),
        {letter: [list(map(costs.ticks, row)) for row in rows] for letter, rows in ops.items()},
        {"F": delays("F", 1), "I": delays("I", -1)},
        {letter: [list(map(costs.holds, row)) for row in rows] for letter, rows in ops.items()},
        (inf,) * problem.ranks,
    )


def limited(
    problem: Problem, costs: Costs, memory_limit: float | None, default: Letters
) -> Streams:
    """Ask the cost model once for each op, and what each rank may hold.

    `memory_limit` counts full micro-batches on a full stage; None: as many as `default` needs.
    Raises ProblemError where a single micro-batch does not fit.
    """
    ops = streams(problem, costs)
    whole = limit_cells(problem, loop(problem.ranks), costs, 1)

    def needs(letters: Letters) -> float:
        peaks = (peak(ops, rank, row) for rank, row in enumerate(letters))
        return max(
            (most / cells for most, cells in zip(peaks, whole, strict=True) if cells), default=1
        )

    # A little more than needed, so that rounding does not exclude the default itself.
    wanted = needs(default) * (1 + 1e-9) if memory_limit is None else memory_limit
    least = needs((one_by_one(problem),) * problem.ranks)
    if not wanted >= least:  # so that NaN is refused, too
        raise ProblemError(
            f"memory_limit={wanted:g} full micro-batches is too little for a search of zero-bubble "
            "orders (zb-auto, seq-zb-auto): one micro-batch at a time needs more, set "
            f"memory_limit={ceil(least * 1e4) / 1e4:g}"
        )
    return replace(ops, limit=limit_cells(problem, loop(problem.ranks), costs, wanted))


def to_schedule(letters: Letters, problem: Problem) -> Schedule:
    """The ops that rows of letters stand for."""
    order = {"F": problem.units(), "I": problem.backward_units(), "W": problem.backward_units()}

    def row(rank: int) -> tuple[Op, ...]:
        turn = {letter: iter(units) for letter, units in order.items()}
        return tuple(Op(Kind(letter), rank, *next(turn[letter])) for letter in letters[rank])

    return Schedule("", problem, loop(problem.ranks), tuple(map(row, range(problem.ranks))))


def to_letters(schedule: Schedule) -> Letters:
    """The reverse of `to_schedule`; a full backward is an I and a W side by side."""
    return tuple(
        "".join("IW" if op.kind is Kind.B else op.kind.value for op in row) for row in schedule.rows
    )


def one_by_one(problem: Problem) -> str:
    """The row that holds least: each micro-batch's F's, then its I's and W's in turn."""
    counts = map(problem.segments_of, range(problem.microbatches))
    return "".join("F" * count + "IW" * count for count in counts)


def peak(streams: Streams, rank: int, row: str) -> float:
    """Most cells that a rank holds after an op of its row."""
    turn = {letter: iter(streams.holds[letter][rank]) for letter in "FIW"}
    return max(accumulate((next(turn[letter]) for letter in row), initial=0))


def fits(streams: Streams, letters: Letters) -> bool:
    """Whether every rank stays within its limit."""
    return all(peak(streams, rank, row) <= streams.limit[rank] for rank, row in enumerate(letters))


def allowed(streams: Streams, rank: int, row: str) -> bool:
    """Whether a row fits the rank's limit and runs no op before one of its own that it needs."""
    done = {"F": 0, "I": 0, "W": 0}
    held: float = 0
    holds, limit, needed = streams.holds, streams.limit[rank], streams.needed
    for letter in row:
        at = done[letter]
        if letter == "I" and done["F"] < needed[at]:
            return False
        if letter == "W" and done["I"] <= at:
            return False
        held += holds[letter][rank][at]
        if held > limit:
            return False
        done[letter] = at + 1
    return True


class Outcome(NamedTuple):
    """How good an order is, in ticks."""

    span: float  # the paper's cost: the longest time from a rank's first F to its last W
    makespan: float  # the end of the last op on any rank
    total: float  # the sum of the ranks' ends


class Run(NamedTuple):
    """When the ops of each row start and end, in ticks."""

    starts: list[list[float]]
    ends: list[list[float]]

    @property
    def outcome(self) -> Outcome:
        """What a search compares."""
        last = [ends[-1] for ends in self.ends]
        spans = (end - starts[0] for end, starts in zip(last, self.starts, strict=True))
        return Outcome(max(spans), max(last), sum(last))


def run(streams: Streams, letters: Sequence[str]) -> Run | None:
    """Run rows as soon as possible, as `ir.clock` does for ops; None if they wait for each other.

    Time grows linearly with the ops. A search calls this once for each candidate.
    """
    ranks = streams.ranks
    ticks, delay = streams.ticks, streams.delay
    starts: list[list[float]] = [[] for _ in range(ranks)]
    ends: list[list[float]] = [[] for _ in range(ranks)]
    arrived: dict[str, Table] = {letter: [[] for _ in range(ranks)] for letter in "FI"}
    arrived["F"][0] = [0] * streams.units  # nobody sends to the first stage, nor back to the last
    arrived["I"][-1] = [0] * streams.units
    done = [{"F": 0, "I": 0, "W": 0} for _ in range(ranks)]
    ready = list(reversed(range(ranks)))
    while ready:
        rank = ready.pop()
        row, count, my_starts, my_ends = letters[rank], done[rank], starts[rank], ends[rank]
        now = my_ends[-1] if my_ends else 0
        sent_forward = sent_backward = False
        for letter in row[len(my_ends) :]:
            at = count[letter]
            if letter != "W":
                inbox = arrived[letter][rank]
                if at >= len(inbox):
                    break
                if inbox[at] > now:
                    now = inbox[at]
            my_starts.append(now)
            now += ticks[letter][rank][at]
            my_ends.append(now)
            count[letter] = at + 1
            if letter == "F" and rank + 1 < ranks:
                arrived["F"][rank + 1].append(now + delay["F"][rank][at])
                sent_forward = True
            elif letter == "I" and rank:
                arrived["I"][rank - 1].append(now + delay["I"][rank][at])
                sent_backward = True
        ready += [rank + 1] * sent_forward + [rank - 1] * sent_backward
    if any(len(end) < len(row) for end, row in zip(ends, letters, strict=True)):
        return None
    return Run(starts, ends)
