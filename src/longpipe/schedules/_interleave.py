"""The order that interleaved schedules share: a group of micro-batches, chunk after chunk."""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._row import alternate, alternate_split


def interleave(problem: Problem, together: int, *, split: bool = False) -> Schedule:
    """1F1B over chunks: `together` micro-batches pass one chunk, then the rank's next chunk.

    Segments go first to last forward, last to first backward. The last stage can begin backward
    once the last chunk has seen one whole micro-batch: (v-1) groups and k-1 segments before that
    are warm-up; each rank before needs 2 units more, one for the way there and one for the way
    back. `together` must divide the micro-batches, and a group must hold at least p units.
    With `split` the backward is I and W by ZB-H1's rule, and 1 unit more will do.
    """
    p, v, k = problem.ranks, problem.chunks, problem.segments_max
    groups = [range(mb, mb + together) for mb in range(0, problem.microbatches, together)]

    def row(rank: int) -> tuple[Op, ...]:
        forward = [
            Op(Kind.F, chunk * p + rank, mb, seg)
            for group in groups
            for chunk in range(v)
            for mb in group
            for seg in range(k)
        ]
        backward = [
            Op(Kind.I if split else Kind.B, chunk * p + rank, mb, seg)
            for group in groups
            for chunk in reversed(range(v))
            for mb in group
            for seg in reversed(range(k))
        ]
        last = (v - 1) * together * k + k - 1  # warm-up of the last rank
        if split:
            return alternate_split(forward, backward, last + p - 1 - rank, lag=rank)
        return alternate(forward, backward, last + 2 * (p - 1 - rank))

    return Schedule("", problem, loop(p, v), tuple(map(row, range(p))))
