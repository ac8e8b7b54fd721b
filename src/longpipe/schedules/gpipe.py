"""GPipe: all forwards, then all backwards.

The paper's "cell" or "partition" is our stage, its "accelerator" our rank. Micro-batches go back
in the order in which they came, as in torch; the segments of each go back last to first, since
the gradients of keys and values flow that way.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule


@schedule(
    "gpipe",
    title="GPipe",
    paper="Huang et al., arXiv:1811.06965",
    segments=True,
    bubble="(p-1)(F+I+W)/k",
    peak="m",
)
def build(problem: Problem) -> Schedule:
    """Every unit forward, then every unit backward."""
    forward, backward = problem.units(), problem.backward_units()

    def row(rank: int) -> tuple[Op, ...]:
        return (
            *(Op(Kind.F, rank, mb, seg) for mb, seg in forward),
            *(Op(Kind.B, rank, mb, seg) for mb, seg in backward),
        )

    return Schedule("", problem, loop(problem.ranks), tuple(map(row, range(problem.ranks))))
