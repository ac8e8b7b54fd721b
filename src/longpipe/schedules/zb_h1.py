"""ZB-H1: 1F1B with the backward split, at 1F1B's memory; also over segments.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank. The order is also that
of torch's `ScheduleInterleavedZeroBubble` with one stage per rank.

Over segments it is Seq1F1B's order with the backward split by ZB-H1's rule; the Seq1F1B authors
draw it as "Seq1F1B integrated with ZB-1P". With equal costs it has the least bubble of the orders
at its memory. Where attention outweighs the linear layers, F, I and W of a segment cannot be
balanced at once, and plain Seq1F1B may be faster: seq-zb-auto searches with the true costs.
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
@schedule(
    "seq-zb-h1",
    title="Seq-ZB-H1",
    paper="Sun et al., arXiv:2406.03488, with the rule of Qi et al., arXiv:2401.10241",
    segments=True,
    splits=True,
    bubble="(p-1)(F+I-W)/k",
    peak="min(p+k-1, m k)/k",
)
def build(problem: Problem) -> Schedule:
    """The order of F and I as in 1F1B; rank r keeps its last r weight gradients for the drain.

    Where micro-batches differ in their segments, k is the largest count, as in Seq1F1B.
    """
    p, k = problem.ranks, problem.segments_max

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb, seg) for mb, seg in problem.units()]
        backward = [Op(Kind.I, rank, mb, seg) for mb, seg in problem.backward_units()]
        return alternate_split(forward, backward, warm=p - 1 - rank + k - 1, lag=rank)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
