"""DualPipeV: forwards and backwards run in pairs, over a V of two chunks per rank.

DualPipe cut in half: each micro-batch goes down the ranks and comes back, so that a rank has a
forward of one chunk to run while it runs a backward of the other. A model may fuse the two, for
instance to hide the all-to-all messages of experts behind the other's arithmetic. The reference
code's "chunk" (of the batch) is our micro-batch, its "phase" our chunk (stream 0 is chunk 0); its
"B" is the full backward, `B`, and with zero bubble enabled our `I`. The order is that of torch's
`ScheduleDualPipeV`, pairs included.

Over segments a unit is a segment; each chunk warms up with k-1 units more, as in Seq1F1B.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Op, Pairs, Problem, Schedule, v
from longpipe.schedules._dualpipe import Stream, dual_row
from longpipe.schedules._registry import schedule


@schedule(
    "dualpipe-v",
    title="DualPipeV",
    paper="Sea AI Lab's half of DualPipe (DeepSeek-AI, arXiv:2412.19437), "
    "github.com/deepseek-ai/DualPipe",
    chunks=2,
    splits=True,
    bubble="(p-1)(F&B+B-3W)/2 with pairs fused in a time of F&B, (p-1)F/2 with F = I = W else",
    peak="p + 1/2",
)
@schedule(
    "seq-dualpipe-v",
    title="Seq-DualPipeV",
    paper="the order of DualPipeV, github.com/deepseek-ai/DualPipe, over the segments of Sun et "
    "al., arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="(p-1)(F&B+B-3W)/(2k) with pairs fused, (p-1)F/(2k) with F = I = W else",
    peak="(p+k-1/2)/k",
)
def build(problem: Problem) -> Schedule:
    """The chunks of a rank are the streams of `dual_row`: 0 on the way out, 1 on the way back.

    Where micro-batches differ in their segments, k is the largest count, as in Seq1F1B.
    """
    p, k = problem.ranks, problem.segments_max
    forward, backward = problem.units(), problem.backward_units()
    least = 2 * p + k - 1
    if len(forward) < least:
        raise ProblemError(
            "dualpipe-v and seq-dualpipe-v need at least 2 ranks + segments - 1 "
            f"= {least} micro-batches times segments, got {len(forward)}: use "
            f"microbatches={-(-least // k)}, or zb-v, which takes fewer"
        )

    def row(rank: int) -> tuple[tuple[Op, ...], Pairs]:
        stages = (rank, 2 * p - 1 - rank)
        out, back = (Stream(stage, forward, backward) for stage in stages)
        return dual_row(p, rank, k, (out, back))

    rows, pairs = zip(*map(row, range(p)), strict=True)
    return Schedule("", problem, v(p), rows, frozenset().union(*pairs))
