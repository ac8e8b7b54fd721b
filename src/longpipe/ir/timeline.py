"""What happened, or will: simulated and measured runs are the same type."""

from dataclasses import dataclass
from typing import NamedTuple

from longpipe.ir.op import Op
from longpipe.ir.schedule import Pairs


class Event(NamedTuple):
    """One op on one rank. Times in seconds (or the cost model's own unit) from the step's start.

    `memory` is what the rank holds after the op, `peak` the most it held during it, in bytes or
    the cost model's own unit; None where nobody measured it.
    """

    op: Op
    start_s: float
    end_s: float
    memory: float | None = None
    peak: float | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The events of each rank in the order they ran; `source` says "simulated" or "measured".

    `waits_s[rank][i]` is the share of the gap before event i that was spent waiting for a message
    in flight (None where not known): the rest of the gap is waiting for the work itself. `pairs`
    are the neighbours that ran fused: both results are there at the end of the second.
    """

    name: str
    source: str
    rows: tuple[tuple[Event, ...], ...]
    waits_s: tuple[tuple[float, ...], ...] | None = None
    pairs: Pairs = frozenset()

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.rows)

    @property
    def makespan_s(self) -> float:
        """From t = 0 to the end of the last op on any rank."""
        ends = (event.end_s for row in self.rows for event in row)  # the last to end, not to start
        return max(ends, default=0.0)
