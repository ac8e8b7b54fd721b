"""Exact search for zero-bubble orders: proves how good the searched schedule is, on small problems.

The integer program is the paper's (arXiv:2401.10241, appendix G), with its cost: the longest span
of a rank. It asks the solver HiGHS for an order better than what `zb-auto` finds; where there is
none, that one is optimal.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, gcd, isfinite
from typing import TYPE_CHECKING

from longpipe.errors import ProblemError
from longpipe.ir import Costs, Problem, Schedule
from longpipe.plan._exact_model import ImpossibleError, Model
from longpipe.plan._exact_solver import Hear, ask, solver
from longpipe.schedules import build
from longpipe.schedules._zb_streams import (
    Letters,
    Streams,
    Table,
    allowed,
    limited,
    run,
    to_letters,
    to_schedule,
)

if TYPE_CHECKING:
    import highspy

_MOST_PAIRS = 20_000  # pairs of ops of different kinds on a rank; the program has a row for each
_TINY = 1e-6  # what the solver's tolerances may hide, relative to the cost

Report = Callable[[float, float, float], None]  # seconds, cost and bound in ticks


@dataclass(frozen=True, slots=True)
class Exact:
    """An order, its cost (the longest span of a rank), and what no order can be better than.

    Costs in ticks of the cost model. `elapsed_s` is the time that the search took. `tolerance` is
    the share of the cost that rounding may hide: 0 where all ticks are whole numbers.
    """

    schedule: Schedule
    cost_ticks: float
    bound_ticks: float
    elapsed_s: float
    tolerance: float

    @property
    def gap(self) -> float:
        """Share of the cost that a better order might save; 0: there is none."""
        return (self.cost_ticks - self.bound_ticks) / self.cost_ticks if self.cost_ticks else 0.0

    @property
    def optimal(self) -> bool:
        """Whether it is proven, but for the tolerance, that no order costs less."""
        return self.gap <= self.tolerance


def solve_exact(
    problem: Problem,
    costs: Costs,
    *,
    memory_limit: float | None = None,
    time_limit_s: float = 60.0,
    report: Report | None = None,
) -> Exact:
    """Search for the order of least span within a memory limit, and prove how good it is.

    `memory_limit` counts as in the schedule `zb-auto`. The search ends after `time_limit_s` with
    the best order and the best bound so far; Ctrl-C ends it early. `report` hears of its progress.
    Raises ProblemError where the problem is too large or the limit too small, PlanError where
    HiGHS is not installed.
    """
    started = time.perf_counter()
    _refuse_large(problem)
    highs = solver()
    schedule = build("seq-zb-auto", problem, costs, memory_limit=memory_limit)
    ops = limited(problem, costs, memory_limit, to_letters(build("seq-zb-h1", problem)))
    scaled, unit, whole = _scaled(ops)
    search = _Search(scaled, whole, to_letters(schedule))

    def hear(elapsed_s: float, value: float, bound: float) -> None:
        if report is not None:
            report(elapsed_s, min(value, search.cost) * unit, max(bound, search.bound) * unit)

    search.improve(highs, time_limit_s, hear)
    return Exact(
        replace(to_schedule(search.letters, problem), name="exact"),
        search.cost * unit,
        search.bound * unit,
        time.perf_counter() - started,
        0.0 if whole else 2 * _TINY,
    )


def _refuse_large(problem: Problem) -> None:
    if problem.chunks != 1:
        raise ProblemError(
            f"the exact search orders one chunk per rank, got {problem.chunks}: set chunks=1"
        )
    pairs = 3 * problem.ranks * len(problem.units()) ** 2
    if pairs > _MOST_PAIRS:
        raise ProblemError(
            f"the exact search takes up to {_MOST_PAIRS:,} pairs of ops, this problem has "
            f"{pairs:,} (3 x ranks x units squared): use the schedule zb-auto or seq-zb-auto, "
            "which searches without a proof, or fewer micro-batches, segments or ranks"
        )


def _scaled(ops: Streams) -> tuple[Streams, float, bool]:
    """The same ops in a unit that suits the solver, the unit in ticks, and if ticks are whole."""
    tables = (*ops.ticks.values(), *ops.delay.values())
    numbers = [number for table in tables for row in table for number in row]
    whole = all(isinstance(number, int) or number.is_integer() for number in numbers)
    unit = float(gcd(*map(int, numbers)) or 1) if whole else sum(numbers) / 1000 / ops.ranks

    def in_unit(table: Table) -> Table:
        return [[number / unit for number in row] for row in table]

    ticks = {letter: in_unit(table) for letter, table in ops.ticks.items()}
    delay = {letter: in_unit(table) for letter, table in ops.delay.items()}
    return replace(ops, ticks=ticks, delay=delay), unit, whole


class _Search:
    """The best rows so far, their cost, and the bound, in the solver's unit."""

    def __init__(self, ops: Streams, whole: bool, letters: Letters) -> None:
        self.ops, self.whole, self.letters = ops, whole, letters
        times = run(ops, letters)
        assert times is not None, "a schedule that was built runs to its end"
        self.cost = times.outcome.span
        tables = ops.ticks.values()
        work = max(sum(sum(table[rank]) for table in tables) for rank in range(ops.ranks))
        self.bound = min(work, self.cost)

    def improve(self, highs: "highspy.Highs", time_limit_s: float, hear: Hear) -> None:
        """Ask the solver for a better order, and take what it proves."""
        better = self.cost - 1 if self.whole else self.cost * (1 - _TINY)
        if better < self.bound:
            self._raise_bound(self.cost if self.whole else better)
            return
        try:
            model = Model(self.ops, self.bound, better)
        except ImpossibleError:
            self._raise_bound(self.cost if self.whole else better)
            return
        gap = 1 - 1e-3 if self.whole else _TINY  # whole costs that differ, differ by 1
        answer = ask(highs, model, gap, time_limit_s, hear)
        if answer.values is not None:
            self._take(model.letters(answer.values))
        # The solver speaks of orders that are better than the first one.
        self._raise_bound(min(self._safe(answer.bound), self.cost if self.whole else better))

    def _safe(self, bound: float) -> float:
        """A bound, less what the solver's tolerances may hide."""
        if not isfinite(bound):
            return bound
        return ceil(bound - 1e-3) if self.whole else bound * (1 - _TINY)

    def _raise_bound(self, bound: float) -> None:
        self.bound = min(max(self.bound, bound), self.cost)

    def _take(self, letters: Letters) -> None:
        """Keep the solver's order if it is what it claims to be: legal, within memory, better."""
        times = run(self.ops, letters)
        legal = all(allowed(self.ops, rank, row) for rank, row in enumerate(letters))
        if legal and times is not None and times.outcome.span < self.cost:
            self.letters, self.cost = letters, times.outcome.span
