"""1F1B (PipeDream-Flush): each rank warms up, then runs one forward per backward.

The paper's "stage" is our rank (one chunk each), its "minibatch" our step.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate


@schedule(
    "1f1b",
    title="1F1B",
    paper="Narayanan et al., arXiv:2006.09503",
    bubble="(p-1)(F+I+W)",
    peak="min(p-r, m)",
)
def build(problem: Problem) -> Schedule:
    """Warm up with min(p-1-r, m) forwards, then alternate F and B, then drain."""
    p, m = problem.ranks, problem.microbatches

    def row(rank: int) -> tuple[Op, ...]:
        forward = [Op(Kind.F, rank, mb) for mb in range(m)]
        backward = [Op(Kind.B, rank, mb) for mb in range(m)]
        return alternate(forward, backward, warm=p - 1 - rank)

    return Schedule("", problem, loop(p), tuple(map(row, range(p))))
