"""Interleaved zero bubble: interleaved 1F1B with the backward split; also over segments.

The paper's "B" (backward for the input) is our `I`. The order is that of torch's
`ScheduleInterleavedZeroBubble`, whose "round" is our group of micro-batches: they pass one chunk
together, then the rank's next chunk. Since W no longer holds up the ranks before, a rank needs one
more warm-up forward than the rank after it, where interleaved 1F1B needs two.

Over segments it combines the groups of Seq1F1B-I with that rule.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Problem, Schedule
from longpipe.schedules._interleave import interleave
from longpipe.schedules._registry import schedule


@schedule(
    "zb-interleaved",
    title="Interleaved zero bubble",
    paper="Qi et al., arXiv:2401.10241, as torch.distributed.pipelining interleaves it",
    chunks=None,
    splits=True,
    bubble="(p-1)(F+I-W)/v with m >= p",
    peak="min((v-1)g + p, m v)/v, g the group (p if p divides m)",
    aliases=("interleaved-zero-bubble",),
)
@schedule(
    "seq-zb-interleaved",
    title="Seq1F1B-I with zero bubble",
    paper="Sun et al., arXiv:2406.03488, with the rule of Qi et al., arXiv:2401.10241",
    chunks=None,
    segments=True,
    splits=True,
    bubble="(p-1)(F+I-W)/(k v) with m k >= p",
    peak="min((v-1)G + p+k-1, m k v)/(k v), G = k ceil(p/k) if that divides m k",
)
def build(problem: Problem) -> Schedule:
    """Equal groups of micro-batches, as small as can be with at least p units in a group.

    Warm up with (v-1)G + p-1-r + k-1 forwards, G units in a group; then alternate F and I; rank r
    keeps its last r weight gradients for the drain. With fewer than p units in all, the one group
    does not fill the ranks: the order stays right, each chunk waits for the one before.
    """
    p, m, k = problem.ranks, problem.microbatches, problem.segments_max
    if isinstance(problem.segments, tuple) and set(problem.segments) != {k}:
        raise ProblemError(
            "seq-zb-interleaved needs the same number of segments in each micro-batch, got "
            f"{problem.segments}: use segments={k}, or seq-zb-h1, which takes them as they are"
        )
    least = -(-p // k)
    # A group of twice the size would hold twice the memory: rather refused than done in silence.
    sizes = (min(m, size) for size in range(least, 2 * least))
    together = next((size for size in sizes if m % size == 0), None)
    if together is None:
        raise ProblemError(
            f"zb-interleaved and seq-zb-interleaved cut the micro-batches in equal groups of "
            f"{least} to {2 * least - 1}, got microbatches={m} with segments={k}: use "
            f"microbatches={-(-m // least) * least}"
        )
    return interleave(problem, together, split=True)
