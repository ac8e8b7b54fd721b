"""The adaptive V scheduler: the least bubble under any memory limit, with the real costs.

The paper's "B" (backward for the input) is our `I`, its "device" our rank, its "stage" ours too:
two per rank, down the ranks and back up. It searches over building blocks: every pattern of the
first rank's cells, every offset per hop down the ranks, in two regimes. Its limit counts chunks'
F's; ours, micro-batches on a full stage, is half of that number.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Costs, Problem, Schedule, clock, cost_ticks, makespan_ticks, v
from longpipe.schedules import zb_v
from longpipe.schedules._limit import at_least, limit_cells
from longpipe.schedules._registry import schedule
from longpipe.schedules._streams import fits, read, spell
from longpipe.schedules._v_search import search


@schedule(
    "seq-v-adaptive",
    title="Seq-V adaptive",
    paper="Qi et al., arXiv:2405.15362, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="that of V adaptive, divided by k, or less",
    peak="the limit",
)
@schedule(
    "v-adaptive",
    title="V adaptive",
    paper="Qi et al., arXiv:2405.15362, appendix A",
    chunks=2,
    splits=True,
    bubble="span (3p-1 - 3l + max(3p, p+1 + 2 ceil(l/2)))/2 with F = I = W, l twice the limit",
    peak="the limit",
)
def build(problem: Problem, *, costs: Costs, memory_limit: float | None = None) -> Schedule:
    """The order with the least cost (longest span of a rank) under the limit.

    `memory_limit` is in full micro-batches on a full stage; None allows what V-ZB holds (p
    micro-batches and k - 1 segments, if all are of one size). With more than that, what is found
    under V-ZB's limit competes, so that more memory is not slower. Raises ProblemError if no order
    fits.
    """
    p, k = problem.ranks, problem.segments_max
    enough = (p + k - 1) / k
    limit = enough if memory_limit is None else memory_limit
    cells = limit_cells(problem, v(p), costs, limit)
    if memory_limit is None:
        cells = at_least(cells, zb_v.build(problem), costs)
    found = search(problem, costs, cells) or _one_by_one(problem, costs, cells)
    if found is None:
        raise ProblemError(
            f"v-adaptive: no order holds at most memory_limit={limit} micro-batches on each rank: "
            "set memory_limit=1, which is one micro-batch at a time, or more"
        )
    lower = None
    if limit > enough:
        lower = search(problem, costs, limit_cells(problem, v(p), costs, enough))
    return found if lower is None else min(found, lower, key=lambda each: _times(each, costs))


def _times(schedule: Schedule, costs: Costs) -> tuple[float, float]:
    lanes = clock(schedule, costs)
    return cost_ticks(schedule, lanes), makespan_ticks(lanes)


def _one_by_one(problem: Problem, costs: Costs, limit: tuple[float, ...]) -> Schedule | None:
    """Each micro-batch on its own, if that fits; blocks may not where segments differ in size."""
    stages, placement = problem.stages, v(problem.ranks)
    rows = [
        [
            stream
            for mb in range(problem.microbatches)
            for part in ([down], [up], *([stages + s, 2 * stages + s] for s in (up, down)))
            for stream in part * problem.segments_of(mb)
        ]
        for down, up in zip(range(problem.ranks), reversed(range(stages)), strict=False)
    ]
    ops = read(problem, placement, costs, limit)
    right = all(fits(ops, rank, row) for rank, row in enumerate(rows))
    return spell(rows, problem, placement) if right else None
