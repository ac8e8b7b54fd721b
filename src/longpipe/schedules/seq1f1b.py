"""Seq1F1B: 1F1B over the segments of each sequence.

The paper's "pipeline stage" is our rank (one chunk each), its "sub-sequence" our segment. Its
"partially ordered queue" is the backward order: micro-batches first in, first out; the segments
of each last in, first out.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate


@schedule(
    "seq1f1b",
    title="Seq1F1B",
    paper="Sun et al., arXiv:2406.03488",
    segments=True,
    bubble="(p-1)(F+I+W)/k",
    peak="min(p-r+k-1, m k)/k",
)
def build(problem: Problem) -> Schedule:
    """Warm up with p-1-r + k-1 segments, then alternate F and B, then drain.

    Where micro-batches differ in their segments, k is the largest count: a backward needs its
    whole micro-batch forward, so the i-th backward must follow forward i + k-1 at the earliest.
    """
    p, k = problem.ranks, problem.segments_max

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb, seg) for mb, seg in problem.units()]
        backward = [Op(Kind.B, rank, mb, seg) for mb, seg in problem.backward_units()]
        return alternate(forward, backward, warm=p - 1 - rank + k - 1)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
