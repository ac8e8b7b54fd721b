"""Cost models for the tests of zero-bubble orders, and what they compare."""

import random
from dataclasses import dataclass, replace

from test_schedules_numbers import PaperCosts

from longpipe.ir import (
    Costs,
    Kind,
    Memory,
    Op,
    Problem,
    Schedule,
    clock,
    cost_ticks,
    loop,
    makespan_ticks,
    segments_from_lengths,
)
from longpipe.schedules._limit import limit_cells
from longpipe.schedules._zb_greedy import GRID, heuristic
from longpipe.schedules._zb_streams import Outcome, Streams, run, streams


class Bare:
    """No fused pairs, no scratch, nothing recomputed; a tick and a cell are 1."""

    tick_s = 1.0
    cell_bytes = 1.0

    def pair_ticks(self, first: Op, second: Op) -> None:
        return None

    def scratch(self, op: Op) -> float:
        return 0

    def light(self, op: Op) -> Memory:
        return Memory(0, 0)


@dataclass(frozen=True)
class Profiled(Bare):
    """The paper's profiled times, a share for each chunk, and its memory (Table 1) of one layer."""

    times: tuple[float, float, float]
    message: float
    hidden: int
    heads: int
    chunks: int = 1

    def ticks(self, op: Op) -> float:
        forward, input_grad, weight_grad = self.times
        both = input_grad + weight_grad
        of = {Kind.F: forward, Kind.I: input_grad, Kind.W: weight_grad, Kind.B: both}
        return of[op.kind] / self.chunks

    def holds(self, op: Op) -> float:
        until_i = 34 * self.hidden + 5 * self.heads * 1024
        until_w = 32 * self.hidden
        of = {Kind.F: until_i, Kind.I: until_w - until_i, Kind.W: -until_w, Kind.B: -until_i}
        return of[op.kind]

    def delay(self, op: Op, source: int, destination: int) -> float:
        return self.message if source != destination else 0


@dataclass(frozen=True)
class Uneven(Bare):
    """Random ticks, delays and cells for every op: all unequal, per rank, unit and kind."""

    seed: int
    early: bool  # I frees most of what F holds, as in the paper's accounting

    def _draw(self, low: int, high: int, *key: object) -> int:
        return random.Random(str((self.seed, *key))).randint(low, high)

    def ticks(self, op: Op) -> float:
        if op.kind is Kind.B:
            return sum(self.ticks(op._replace(kind=kind)) for kind in (Kind.I, Kind.W))
        return self._draw(1, 9, "ticks", *op)

    def holds(self, op: Op) -> float:
        cells = self._draw(3, 5, "cells", op.seg)
        kept = 1 if self.early else cells
        of = {Kind.F: cells, Kind.I: kept - cells, Kind.W: -kept, Kind.B: -cells}
        return of[op.kind]

    def delay(self, op: Op, source: int, destination: int) -> float:
        return self._draw(0, 2, "delay", source, destination)


@dataclass(frozen=True)
class Tokens(PaperCosts):
    """The Seq1F1B paper's times; an F holds its tokens until its W."""

    def holds(self, op: Op) -> float:
        tokens = segments_from_lengths(self.lengths)[op.seg].tokens
        return {Kind.F: tokens, Kind.I: 0}.get(op.kind, -tokens)


def found(schedule: Schedule, costs: Costs) -> tuple[float, float]:
    """Cost (span) and makespan in ticks."""
    lanes = clock(schedule, costs)
    return cost_ticks(schedule, lanes), makespan_ticks(lanes)


def within(problem: Problem, costs: Costs, limit: float) -> Streams:
    cells = limit_cells(problem, loop(problem.ranks), costs, limit)
    return replace(streams(problem, costs), limit=cells)


def published(ops: Streams) -> Outcome:
    """The best that the paper's heuristic finds."""
    rows = [heuristic(ops, knobs) for knobs in GRID]
    return min(run(ops, each).outcome for each in rows if each is not None)
