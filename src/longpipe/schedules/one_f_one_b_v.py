"""1F1B-V: a V of two chunks with full backwards, at about two thirds of 1F1B's memory.

The paper's "stage" is ours (two per rank), its "device" our rank, its "B and W in one" our `B`.
"""

from longpipe.ir import Problem, Schedule, v
from longpipe.schedules._block import Block, arrange
from longpipe.schedules._registry import schedule


@schedule(
    "seq-1f1b-v",
    title="Seq-1F1B-V",
    paper="Qi et al., arXiv:2405.15362, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    bubble="that of 1F1B-V, divided by k",
    peak="(floor(2p/3) + k)/k",
)
@schedule(
    "1f1b-v",
    title="1F1B-V",
    paper="Qi et al., arXiv:2405.15362",
    chunks=2,
    bubble="about 2/3 of 1F1B's",
    peak="floor(2p/3) + 1",
)
def build(problem: Problem) -> Schedule:
    """F's in one cell per hop; B's in two, and three cells more after every third hop."""
    return arrange(block(problem.ranks), problem)


def block(p: int) -> Block:
    """Hop j of the backward starts 2j + 3 floor((j + first) / 3) cells after the first.

    The three cells put off the B's of each third rank by half a period, so that none meets the F's
    of its rank; `first` counts from where the way back meets the way there, on rank p - 1.
    """
    first = (1 - p) % 3
    e = 3 if p % 3 == 0 else 0
    hops = [2 * p + e + 2 * hop + 3 * ((hop + first) // 3) for hop in range(2 * p)]
    return Block(v(p), forward=tuple(range(2 * p)), backward=tuple(reversed(hops)), full=True)
