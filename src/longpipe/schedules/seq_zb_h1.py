"""Seq-ZB-H1: Seq1F1B's order with the backward split by ZB-H1's rule.

The Seq1F1B authors draw it as "Seq1F1B integrated with ZB-1P". With equal costs it has the least
bubble of the one-chunk schedules over segments. Where attention outweighs the linear layers, F, I
and W of a segment cannot be balanced at once, and plain Seq1F1B may be faster: simulate both.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate_split


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
    """Seq1F1B's order of F and I; rank r keeps its last r weight gradients for the drain.

    Where micro-batches differ in their segments, k is the largest count, as in Seq1F1B.
    """
    p, k = problem.ranks, problem.segments_max

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb, seg) for mb, seg in problem.units()]
        backward = [Op(Kind.I, rank, mb, seg) for mb, seg in problem.backward_units()]
        return alternate_split(forward, backward, warm=p - 1 - rank + k - 1, lag=rank)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
