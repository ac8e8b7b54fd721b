"""ZB-H2: no bubble between a rank's first forward and last weight gradient, at twice the memory.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank, its "zero bubble" our
span bubble of 0. It takes F = I = W and m of at least 2p-1, and pays off where each rank starts its
next step on its own: with one end for all ranks ZB-H1 takes the same time with less memory.

Over segments a unit is a segment, and k-1 more of them warm up, as in Seq1F1B.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate_split


@schedule(
    "zb-h2",
    title="ZB-H2",
    paper="Qi et al., arXiv:2401.10241",
    splits=True,
    bubble="(p-1)F, span bubble (p-1)(F+I-2W), with F = I = W and m >= 2p-1",
    peak="min(2p-1, m)",
)
@schedule(
    "seq-zb-h2",
    title="Seq-ZB-H2",
    paper="the rule of Qi et al., arXiv:2401.10241, over the segments of Sun et al., "
    "arXiv:2406.03488",
    segments=True,
    splits=True,
    bubble="(p-1)F/k, span bubble (p-1)(F+I-2W)/k, with F = I = W and m k >= 2p-2+k",
    peak="min(2p-2+k, m k)/k",
)
def build(problem: Problem) -> Schedule:
    """Rank r warms up with 2(p-1-r) + k forwards and keeps its last 2r weight gradients.

    After the warm-up it runs I, W, F in turn, as many of each as are left. Where micro-batches
    differ in their segments, k is the largest count, as in Seq1F1B.
    """
    p, k = problem.ranks, problem.segments_max

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb, seg) for mb, seg in problem.units()]
        backward = [Op(Kind.I, rank, mb, seg) for mb, seg in problem.backward_units()]
        # The last forward of the warm-up is the first turn's: F I W, F I W is also F, I W F, I W.
        return alternate_split(forward, backward, warm=2 * (p - 1 - rank) + k - 1, lag=2 * rank)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
