"""ZB-V: a V of two chunks per rank with the backward split; 1F1B's memory, equal on all ranks.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank. The order is the one for
balanced costs, also that of torch's `ScheduleZBVZeroBubble`. Over segments, a unit is a segment,
and each chunk runs k - 1 units more before its first `I`.
"""

from collections.abc import Iterator
from itertools import count

from longpipe.ir import Problem, Schedule, v
from longpipe.schedules._registry import schedule
from longpipe.schedules._streams import Row, spell


@schedule(
    "seq-zb-v",
    title="Seq-ZB-V",
    paper="Qi et al., arXiv:2401.10241, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="(p-1)F/(2k) (span bubble 0) with F = I = W and m k >= 2p-1",
    peak="min(p + k - 1, m k)/k",
)
@schedule(
    "zb-v",
    title="ZB-V",
    paper="Qi et al., arXiv:2401.10241",
    chunks=2,
    splits=True,
    bubble="(p-1)F/2 (span bubble 0) with F = I = W and m >= 2p-1",
    peak="min(p, m)",
)
def build(problem: Problem) -> Schedule:
    """The paper's phases, written out for the units that fill the V; those beyond m k drop.

    With m k < 2p-1 the order stays right, but is not the best one: `v-zb` searches.
    """
    p, units = problem.ranks, len(problem.units())
    return spell(rows(p, units, problem.segments_max - 1), problem, v(p))


def rows(p: int, units: int, lag: int) -> Iterator[Row]:
    """Each rank's row of streams (stages, then as many again for I and for W)."""
    for rank in range(p):
        stages = (rank, 2 * p - 1 - rank)
        turn = {slot: count() for slot in ("F0", "I0", "W0", "F1", "I1", "W1")}
        yield [
            2 * p * "FIW".index(slot[0]) + stages[int(slot[1])]
            for slot in _slots(p, rank, max(units, 2 * p - 1 + lag), lag)
            if next(turn[slot]) < units
        ]


def _slots(p: int, rank: int, n: int, lag: int) -> Iterator[str]:
    """Kind and chunk of each op of the row; units count up within each of the six."""
    to_end, turns = p - rank, rank + lag
    yield from ["F0"] * (2 * to_end - 1)
    yield from ["F1", "F0"] * turns
    yield from ["F1", "I1", "W1"] * to_end
    down, up = n - (2 * to_end - 1) - turns, n - turns - to_end  # forwards left in chunk 0 and 1
    for turn in range(up):
        if turn < down:
            yield "F0"
        yield from ("I0", "W0", "F1", "I1", "W1")
    yield from ["I0", "I1"] * turns
    yield from ["I0", "W0"] * to_end
    yield from ["W1"] * turns
    yield from ["W0"] * turns
