"""The cost protocol: what a simulator, or a schedule that searches, may ask."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from longpipe.ir.kind import SHARDING, WEIGHT_GRAD, Kind
from longpipe.ir.op import Op


class Memory(NamedTuple):
    """Memory cells of one op: what stays after it, and what it needs at its peak.

    `holds` is negative where the op frees; `scratch` is counted above what was held before.
    """

    holds: float
    scratch: float


class Costs(Protocol):
    """Time and memory of each op, in ticks.

    Numbers may be ints, floats or Fractions; a model that counts in ints simulates exactly.
    `tick_s` is the length of a tick (seconds, or the user's own time unit), `cell_bytes` the size
    of one memory cell (bytes, or the user's own memory unit).
    """

    @property
    def tick_s(self) -> float: ...

    @property
    def cell_bytes(self) -> float: ...

    def ticks(self, op: Op) -> float:
        """Ticks that a compute op takes."""
        ...

    def pair_ticks(self, first: Op, second: Op) -> float | None:
        """Ticks that a fused pair takes, from one start to one end; None: it runs as two ops."""
        ...

    def shard_ticks(self, op: Op) -> float:
        """Ticks that an UNSHARD or a REDUCE_GRAD takes, beside the rank's compute."""
        ...

    def delay(self, op: Op, source: int, destination: int) -> float:
        """Ticks from the end of `op` until its result lies on the other rank."""
        ...

    def holds(self, op: Op) -> float:
        """Memory cells that stay allocated after the op (negative: that it frees at its end)."""
        ...

    def scratch(self, op: Op) -> float:
        """Memory cells above what is held before the op, at the op's own peak."""
        ...

    def light(self, op: Op) -> Memory:
        """Memory of an F that keeps no more than its R needs to make the rest again."""
        ...


def row_memory(row: Sequence[Op], costs: Costs) -> Iterator[Memory]:
    """Memory of each op of one rank's row (without messages), recomputation taken into account.

    Weights and their gradients are not counted: sharding ops hold nothing here.
    Where the row has an R, its F is light and R holds what the F would have held besides.
    """
    redone = {op._replace(kind=Kind.F) for op in row if op.kind is Kind.R}
    for op in row:
        if op in redone:
            yield costs.light(op)
        elif op.kind is Kind.R:
            forward = op._replace(kind=Kind.F)
            yield Memory(costs.holds(forward) - costs.light(forward).holds, costs.scratch(op))
        elif op.kind in SHARDING:
            yield Memory(0, 0)
        else:
            yield Memory(costs.holds(op), costs.scratch(op))


class EqualCosts:
    """Every F, I, W and R takes one tick, B two, messages none; F holds one cell until B or W.

    What a schedule that searches assumes where nobody says better.
    """

    tick_s = 1.0
    cell_bytes = 1.0

    def ticks(self, op: Op) -> int:
        """One tick; two for a full backward."""
        return 2 if op.kind is Kind.B else 1

    def pair_ticks(self, first: Op, second: Op) -> None:
        """A pair runs as two ops."""
        return None

    def shard_ticks(self, op: Op) -> int:
        """Sharding takes no time."""
        return 0

    def delay(self, op: Op, source: int, destination: int) -> int:
        """Messages take no time."""
        return 0

    def holds(self, op: Op) -> int:
        """F adds a cell, B and W free it."""
        if op.kind is Kind.F:
            return 1
        return -1 if op.kind in WEIGHT_GRAD else 0

    def scratch(self, op: Op) -> int:
        """What F and R add."""
        return int(op.kind in (Kind.F, Kind.R))

    def light(self, op: Op) -> Memory:
        """The saved input counts nothing."""
        return Memory(0, 0)
