"""V-Half: about half of 1F1B's memory on all ranks, at about half of its bubble.

The paper's "B" (backward for the input) is our `I`, its "device" our rank, its "stage" ours too:
two per rank, down the ranks and back up. Passes go down in two cells per hop and up in one, which
leaves room for F, I and W of different times.
"""

from longpipe.ir import Problem, Schedule, v
from longpipe.schedules._block import Block, arrange
from longpipe.schedules._registry import schedule


@schedule(
    "seq-v-half",
    title="Seq-V-Half",
    paper="Qi et al., arXiv:2405.15362, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="that of V-Half, divided by k",
    peak="(floor(p/2) + k)/k",
)
@schedule(
    "v-half",
    title="V-Half",
    paper="Qi et al., arXiv:2405.15362",
    chunks=2,
    splits=True,
    bubble="max(1, 6 ceil(p/2) - 7)/2 with F = I = W",
    peak="floor(p/2) + 1",
)
def build(problem: Problem) -> Schedule:
    """Down in two cells per hop, up in one, and the same for the way back."""
    return arrange(block(problem.ranks), problem)


def block(p: int) -> Block:
    """F and I of a rank r in cells 2r and from there, of its way up one cell per hop."""
    e = 3 if p % 2 == 0 else 0  # else two passes of a rank would collide
    down, up = range(p), range(p, 2 * p)
    return Block(
        v(p),
        forward=(*(2 * s for s in down), *(p - 1 + s for s in up)),
        backward=(*(6 * p - 2 + e - s for s in down), *(7 * p - 3 + e - 2 * s for s in up)),
    )
