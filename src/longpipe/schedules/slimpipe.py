"""SlimPipe: 1F1B whose unit of warm-up is a segment, so that peak activations fall with ranks.

The paper's "pipeline rank" is our rank, its "slice" our segment (n slices: k), its "stage" of a
device our chunk; its "unit" is one segment on one chunk. All ranks follow one forward and one
backward stream; the backward stream of a micro-batch is its forward stream reversed, so that
segments and chunks leave last in, first out. The exchange of attention work between ranks, which
makes unequal segments cost the same, is no matter of the order and not part of it.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate


@schedule(
    "slimpipe",
    title="SlimPipe",
    paper="Li et al., arXiv:2504.14519, without the exchange of attention work",
    more_chunks=True,
    segments=True,
    bubble="(p-1)(F+I+W)/(k v)",
    peak="min(k v + 2(p-1-r), m k v)/(k v)",
)
def build(problem: Problem) -> Schedule:
    """Warm up with k v + 2(p-1-r) - 1 units, then alternate F and B, then drain.

    With several chunks the segments pass them in groups of g, the smallest divisor of k that is at
    least p: so the first unit of a group has come around when the rank has done with the last.
    """
    p, v = problem.ranks, problem.chunks
    k = _segments(problem)
    g = next(size for size in range(p, k + 1) if k % size == 0)
    stream = [
        (chunk, cycle + within)  # (chunk, seg) of one micro-batch
        for cycle in range(0, k, g)
        for chunk in range(v)
        for within in range(g)
    ]

    def row(rank: int) -> tuple[Op, ...]:
        mbs = range(problem.microbatches)
        forward = [Op(Kind.F, c * p + rank, mb, seg) for mb in mbs for c, seg in stream]
        backward = [Op(Kind.B, c * p + rank, mb, seg) for mb in mbs for c, seg in stream[::-1]]
        return alternate(forward, backward, warm=k * v + 2 * (p - 1 - rank) - 1)

    return Schedule("", problem, loop(p, v), tuple(map(row, range(p))))


def _segments(problem: Problem) -> int:
    """k, if SlimPipe can order the problem; ProblemError otherwise."""
    p, m, v, k = problem.ranks, problem.microbatches, problem.chunks, problem.segments_max
    other = "seq1f1b" if v == 1 else "looped-bfs"
    if isinstance(problem.segments, tuple) and set(problem.segments) != {k}:
        raise ProblemError(
            f"slimpipe needs the same number of segments in each micro-batch, got "
            f"{problem.segments}: use segments={k}, or {other}, which takes them as they are"
        )
    if k < p:
        raise ProblemError(
            f"slimpipe needs at least as many segments as ranks={p}, got segments={k}: "
            f"use segments={p}, or {other}, which takes any number"
        )
    if m * k * v < k * v + 2 * (p - 1):
        fewest = 1 - (-2 * (p - 1) // (k * v))
        raise ProblemError(
            f"slimpipe keeps {k * v + 2 * (p - 1)} units (a segment on a chunk) in flight on rank "
            f"0, but microbatches={m} have only {m * k * v}: use microbatches={fewest}, or {other}"
        )
    return k
