"""Chronos-Pipe: two or more chunks in a period that keeps the early ones' activations short-lived.

The paper's "lifetime" of an activation is the time from its F to the end of its B; its shallow and
deep part of a rank are our chunks 0 and 1. A micro-batch starts once per period of v(f+b), where f
and b are the times of F and B of one chunk; here b = 2f, and the order is the same for all costs.
Chronos-Recomp is the recompute pass on chunk 0, whose activations live longest.

These offsets have the paper's lifetimes, bubble and memory; its own are not given in all detail. A
micro-batch comes to the next chunk's F no sooner than p f after the F before, and to the B of the
chunk before no sooner than p b. On no rank may two ops meet. From rank to rank F comes f later and
B b sooner, so that they shift by a slot of f+b: the F's stand at whole slots, the B's in the gaps.
What is left to choose is how many slots each hop takes: as few as can be, those during which more
chunks are alive weighing more, with no two F's (or B's) in the same slot of the period.

Over segments a unit is a segment, and every backward comes k-1 periods later, as in Seq1F1B.
"""

from functools import cache
from itertools import accumulate, pairwise, permutations

from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule

_F, _B = 1, 2
_SLOT = _F + _B
_MOST_CHUNKS = 8


@schedule(
    "chronos",
    title="Chronos-Pipe",
    paper="Lin et al., arXiv:2503.03182",
    chunks=None,
    bubble="(p-1)(F+I+W), with I = W = F",
    peak="about p(v+1)/(2v); 3p/4 + 1/2 with 2 chunks and even p, m >= p+1",
)
@schedule(
    "seq-chronos",
    title="Seq-Chronos",
    paper="the period of Lin et al., arXiv:2503.03182, over the segments of Sun et al., "
    "arXiv:2406.03488",
    chunks=None,
    segments=True,
    bubble="(p-1)(F+I+W)/k, with I = W = F",
    peak="about (p(v+1)/(2v) + k-1)/k",
)
def build(problem: Problem) -> Schedule:
    """Each rank's ops in the order of their times in the periodic block.

    Where micro-batches differ in their segments, k is the largest count, as in Seq1F1B.
    """
    p, v = problem.ranks, problem.chunks
    if v > _MOST_CHUNKS:
        raise ProblemError(
            f"chronos and seq-chronos search the order of up to {_MOST_CHUNKS} chunks, got "
            f"chunks={v}: use chunks=2, or interleaved"
        )
    forward, backward = block(p, v)
    period, later = v * _SLOT, problem.segments_max - 1

    def row(rank: int) -> tuple[Op, ...]:
        timed: list[tuple[int, Op]] = []
        for chunk in range(v):
            stage = chunk * p + rank
            start = forward[chunk] + rank * _F
            for turn, unit in enumerate(problem.units()):
                timed.append((turn * period + start, Op(Kind.F, stage, *unit)))
            start = backward[chunk] + (p - 1 - rank) * _B
            for turn, unit in enumerate(problem.backward_units(), later):
                timed.append((turn * period + start, Op(Kind.B, stage, *unit)))
        return tuple(op for _, op in sorted(timed))

    return Schedule("", problem, loop(p, v), tuple(map(row, range(p))))


def block(ranks: int, chunks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start of F and of B of each chunk, on the first rank of each pass, of the first micro-batch.

    >>> block(ranks=4, chunks=2)
    ((0, 9), (22, 13))
    """
    forward = tuple(accumulate(_hops(-(-ranks * _F // _SLOT), chunks), initial=0))
    turn = forward[-1] + ranks * _F  # lies in a gap between F's on every rank
    hops = reversed(_hops(-(-ranks * _B // _SLOT), chunks))
    return forward, tuple(reversed(tuple(accumulate(hops, initial=turn))))


@cache
def _hops(least: int, chunks: int) -> tuple[int, ...]:
    """Time from each chunk's pass to the next one's, whole slots, at least `least` of them."""
    choices = (
        tuple(least + (after - before - least) % chunks for before, after in pairwise((0, *order)))
        for order in permutations(range(1, chunks))
    )
    best = min(choices, key=lambda hops: sum(alive * hop for alive, hop in enumerate(hops, 1)))
    return tuple(hop * _SLOT for hop in best)
