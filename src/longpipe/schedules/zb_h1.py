"""ZB-H1: 1F1B with the backward split, at 1F1B's memory.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank. The order is also that
of torch's `ScheduleInterleavedZeroBubble` with one stage per rank.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate_split


@schedule(
    "zb-h1",
    title="ZB-H1",
    paper="Qi et al., arXiv:2401.10241",
    splits=True,
    bubble="(p-1)(F+I-W)",
    peak="min(p, m)",
)
def build(problem: Problem) -> Schedule:
    """1F1B's order of F and I; rank r keeps its last r weight gradients for the drain."""
    p, m = problem.ranks, problem.microbatches

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb) for mb in range(m)]
        backward = [Op(Kind.I, rank, mb) for mb in range(m)]
        return alternate_split(forward, backward, warm=p - 1 - rank, lag=rank)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
