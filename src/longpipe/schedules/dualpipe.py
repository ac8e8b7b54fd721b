"""DualPipe: micro-batches enter the pipeline from both ends, so forwards and backwards pair up.

Half of the micro-batches go down the ranks, the other half up: every stage lies on two ranks, r and
p-1-r, whose gradients are summed after the step. That is twice the parameters for half of the
bubble, and each rank has a forward of one direction to run while it runs a backward of the other.
The paper's "chunk" is our micro-batch, the reference code's "phase" our direction: stream 0 is, on
the first half of the ranks, the way down, and on the second half the way up. Its "B" is the full
backward, `B`, and "backward for input" our `I`.

Over segments a unit is a segment; each stream warms up with k-1 units more, as in Seq1F1B.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Op, Pairs, Problem, Schedule, bidirectional
from longpipe.schedules._dualpipe import Stream, dual_row
from longpipe.schedules._registry import schedule


@schedule(
    "dualpipe",
    title="DualPipe",
    paper="DeepSeek-AI, arXiv:2412.19437",
    splits=True,
    bubble="(p/2-1)(F&B+B-3W) with pairs fused in a time of F&B, (p/2-1)F with F = I = W else",
    peak="p + 1",
)
@schedule(
    "seq-dualpipe",
    title="Seq-DualPipe",
    paper="the order of DeepSeek-AI, arXiv:2412.19437, over the segments of Sun et al., "
    "arXiv:2406.03488",
    segments=True,
    splits=True,
    bubble="(p/2-1)(F&B+B-3W)/k with pairs fused, (p/2-1)F/k with F = I = W else",
    peak="(p+2k-1)/k",
)
def build(problem: Problem) -> Schedule:
    """Micro-batches of the first half go down, stage s on rank s, the others up, s on p-1-s.

    A rank is like one of p/2 in DualPipeV, the one that is as far from its end of the pipeline.
    """
    _check(problem)
    p = problem.ranks
    forward, backward = problem.units(), problem.backward_units()
    n = len(forward) // 2  # micro-batches of both halves have as many units in all

    def row(rank: int) -> tuple[tuple[Op, ...], Pairs]:
        goes_down = Stream(rank, forward[:n], backward[:n])
        goes_up = Stream(p - 1 - rank, forward[n:], backward[n:])
        from_end = min(rank, p - 1 - rank)
        streams = (goes_down, goes_up) if rank == from_end else (goes_up, goes_down)
        return dual_row(p // 2, from_end, problem.segments_max, streams)

    rows, pairs = zip(*map(row, range(p)), strict=True)
    placement = bidirectional(p, problem.microbatches)
    return Schedule("", problem, placement, rows, frozenset().union(*pairs))


def _check(problem: Problem) -> None:
    """Two equal halves of the ranks and of the units, with enough units to fill them."""
    p, m, k = problem.ranks, problem.microbatches, problem.segments_max
    name = "dualpipe and seq-dualpipe"
    if p % 2:
        raise ProblemError(
            f"{name} pair ranks from both ends, got ranks={p}: use ranks={p + 1}, or dualpipe-v, "
            "which takes any number"
        )
    counts = [problem.segments_of(mb) for mb in range(m)]
    least = p + k - 1  # units of each half
    enough = max(m + m % 2, 2 * -(-least // k))
    if m % 2 or sum(counts[: m // 2]) != sum(counts[m // 2 :]):
        raise ProblemError(
            f"{name} send half of the micro-batches, and of their segments, from each end, got "
            f"microbatches={m} with segments={problem.segments}: use microbatches={enough} "
            f"with segments={k}, or dualpipe-v and seq-dualpipe-v, which take any"
        )
    if sum(counts) < 2 * least:
        raise ProblemError(
            f"{name} need at least 2 (ranks + segments - 1) = {2 * least} micro-batches times "
            f"segments, got {sum(counts)}: use microbatches={enough}, or 1f1b"
        )
