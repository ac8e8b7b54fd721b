"""V-Min: the least memory of a V of two chunks, about a third of 1F1B's, equal on all ranks.

The paper's "B" (backward for the input) is our `I`, its "device" our rank, its "stage" ours too:
two per rank, down the ranks and back up. Every hop takes one cell, so that lifespans are as short
as they can be. Where F, I and W differ in time, bubbles repeat with every micro-batch; V-Half is
faster then.
"""

from longpipe.ir import Problem, Schedule, v
from longpipe.schedules._block import Block, arrange
from longpipe.schedules._registry import schedule


@schedule(
    "seq-v-min",
    title="Seq-V-Min",
    paper="Qi et al., arXiv:2405.15362, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="that of V-Min, divided by k",
    peak="(floor((p+1)/3) + k)/k",
)
@schedule(
    "v-min",
    title="V-Min",
    paper="Qi et al., arXiv:2405.15362",
    chunks=2,
    splits=True,
    bubble="(6p-1-3l)/2, +2 if p = 2 mod 3 and p >= 5 (p = 2: 3/2), F = I = W, l twice the peak",
    peak="floor((p+1)/3) + 1",
)
def build(problem: Problem) -> Schedule:
    """Down in one cell per hop, up in one cell per hop, and the same for the way back."""
    return arrange(block(problem.ranks), problem)


def block(p: int, period: int = 6) -> Block:
    """F of stage s in cell s, and the same way back, two cells later where passes would collide.

    An even period longer than 6 leaves cells idle in return for less memory.
    """
    e = 2 if 2 * p % period == 0 else 0
    stages = range(2 * p)
    return Block(v(p), tuple(stages), tuple(4 * p - 1 + e - stage for stage in stages), period)
