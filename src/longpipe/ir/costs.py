"""The cost protocol: what a simulator, or a schedule that searches, may ask."""

from typing import Protocol

from longpipe.ir.op import Op


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

    def delay(self, op: Op, source: int, destination: int) -> float:
        """Ticks from the end of `op` until its result lies on the other rank."""
        ...

    def holds(self, op: Op) -> float:
        """Memory cells that stay allocated after the op (negative: that it frees at its end)."""
        ...

    def scratch(self, op: Op) -> float:
        """Memory cells above what is held before the op, at the op's own peak."""
        ...
