"""Looped breadth-first pipeline: every micro-batch of a stage before the rank's next stage.

The paper's "looping pipeline" with N_loop loops is our loop placement with that many chunks per
rank, its N_PP our ranks, its N_mb our micro-batches, its "micro-batch splits" our segments. All
micro-batches stay in flight; in return a rank gathers and reduces each stage's weights once.
torch's looped BFS takes the micro-batches backward in reversed order; this is the paper's order.
"""

from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule


@schedule(
    "looped-bfs",
    title="Looped breadth-first",
    paper="Lamy-Poirier, arXiv:2211.05953",
    chunks=None,
    segments=True,
    bubble="(p-1)(F+I+W)/(k v)",
    peak="m",
    aliases=("breadth-first", "looped-breadth-first"),
)
def build(problem: Problem) -> Schedule:
    """Stages ascending, each with all its forwards; then descending, each with its backwards."""
    placement = loop(problem.ranks, problem.chunks)
    forward, backward = problem.units(), problem.backward_units()

    def row(rank: int) -> tuple[Op, ...]:
        stages = placement.stages_of(rank)
        return (
            *(Op(Kind.F, stage, mb, seg) for stage in stages for mb, seg in forward),
            *(Op(Kind.B, stage, mb, seg) for stage in reversed(stages) for mb, seg in backward),
        )

    return Schedule("", problem, placement, tuple(map(row, range(problem.ranks))))
