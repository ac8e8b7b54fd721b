"""Seq1F1B-I: interleaved 1F1B over the segments of each sequence.

The paper's "sub-sequence" is our segment, its "virtual pipeline stage" our stage. The paper's code
groups p segments, which is right only where the segments divide p; here a group is ceil(p/k)
whole micro-batches, the fewest that hold p segments, which is right for every k.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Problem, Schedule
from longpipe.schedules._interleave import interleave
from longpipe.schedules._registry import schedule


@schedule(
    "seq1f1b-interleaved",
    title="Seq1F1B-I",
    paper="Sun et al., arXiv:2406.03488, with groups of whole micro-batches",
    chunks=None,
    segments=True,
    bubble="(p-1)(F+I+W)/(k v)",
    peak="min((v-1)G + 2(p-r-1) + k, m k v)/(k v), G = k ceil(p/k)",
    aliases=("seq1f1b-i",),
)
def build(problem: Problem) -> Schedule:
    """Groups of ceil(p/k) micro-batches: G segments; warm up with (v-1)G + 2(p-1-r) + k-1.

    A last group that is not full would hold fewer than p segments, so that each chunk would wait
    for the one before: a hidden bubble, refused.
    """
    p, m, k = problem.ranks, problem.microbatches, problem.segments_max
    if isinstance(problem.segments, tuple) and set(problem.segments) != {k}:
        raise ProblemError(
            "seq1f1b-interleaved needs the same number of segments in each micro-batch, got "
            f"{problem.segments}: use segments={k}, or seq1f1b, which takes them as they are"
        )
    together = -(-p // k)
    if m % together:
        fewest = next(n for n in range(k + 1, p + 1) if m % -(-p // n) == 0)
        raise ProblemError(
            f"seq1f1b-interleaved takes micro-batches in groups of {together} (so that a group has "
            f"at least ranks={p} segments), got microbatches={m} with segments={k}: use "
            f"microbatches={-(-m // together) * together}, or segments={fewest}"
        )
    return interleave(problem, together)
