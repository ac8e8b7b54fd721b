"""A schedule (compute ops in order) and a program (with its messages)."""

from collections.abc import Iterator
from dataclasses import dataclass

from longpipe.ir.deps import matching
from longpipe.ir.kind import MESSAGES
from longpipe.ir.op import Op
from longpipe.ir.placement import Placement
from longpipe.ir.problem import Problem

Rows = tuple[tuple[Op, ...], ...]
Pairs = frozenset[tuple[Op, Op]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """For each rank its compute ops in order, plus the placement: the published idea alone.

    No modules, no messages, no times. `rows[rank]` is what the rank runs, first to last. `pairs`
    are neighbours in a row, a forward and a backward, that a model may run as one fused pair; where
    it has none they run one after the other. A pass may add when to gather and reduce sharded
    weights (`passes.add_sharding`).
    """

    name: str
    problem: Problem
    placement: Placement
    rows: Rows
    pairs: Pairs = frozenset()

    @property
    def ops(self) -> int:
        """Number of ops over all ranks."""
        return sum(map(len, self.rows))

    def __iter__(self) -> Iterator[tuple[int, int, Op]]:
        """Every (rank, position, op), rank by rank."""
        return ((r, i, op) for r, row in enumerate(self.rows) for i, op in enumerate(row))


@dataclass(frozen=True, slots=True)
class Program:
    """What the runtime executes: a schedule's rows with sends and receives at their places."""

    name: str
    problem: Problem
    placement: Placement
    rows: Rows
    pairs: Pairs = frozenset()

    def peer(self, op: Op) -> int:
        """The rank at the other end of a SEND or RECV."""
        other = matching(op)
        return self.placement(other.stage, other.mb)

    def schedule(self) -> Schedule:
        """The same without messages."""
        rows = tuple(tuple(op for op in row if op.kind not in MESSAGES) for row in self.rows)
        return Schedule(self.name, self.problem, self.placement, rows, self.pairs)
