"""ZB-V: a V of two chunks per rank with the backward split; 1F1B's memory, equal on all ranks.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank. The order is the one for
balanced costs, also that of torch's `ScheduleZBVZeroBubble`.
"""

from collections.abc import Iterator
from itertools import count

from longpipe.ir import Kind, Op, Problem, Schedule, v
from longpipe.schedules._registry import schedule


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
    """The paper's phases, written out for the micro-batches that fill the V; those beyond m drop.

    With m < 2p-1 the order stays right, but is not the best one.
    """
    p, m = problem.ranks, problem.microbatches

    def row(rank: int) -> tuple[Op, ...]:
        stages = (rank, 2 * p - 1 - rank)
        turn = {slot: count() for slot in ("F0", "I0", "W0", "F1", "I1", "W1")}
        ops = (
            Op(Kind(slot[0]), stages[int(slot[1])], next(turn[slot]))
            for slot in _slots(p, rank, max(m, 2 * p - 1))
        )
        return tuple(op for op in ops if op.mb < m)

    return Schedule("", problem, v(p), tuple(map(row, range(p))))


def _slots(p: int, rank: int, n: int) -> Iterator[str]:
    """Kind and chunk of each op of the row; micro-batches count up within each of the six."""
    to_end = p - rank
    yield from ["F0"] * (2 * to_end - 1)
    yield from ["F1", "F0"] * rank
    yield from ["F1", "I1", "W1"] * to_end
    down, up = n - (2 * to_end - 1) - rank, n - rank - to_end  # forwards left in chunk 0 and 1
    for turn in range(up):
        if turn < down:
            yield "F0"
        yield from ("I0", "W0", "F1", "I1", "W1")
    yield from ["I0", "I1"] * rank
    yield from ["I0", "W0"] * to_end
    yield from ["W1"] * rank
    yield from ["W0"] * rank
