"""V-ZB: no bubble but the first, at 1F1B's memory, with the real costs.

The paper's "B" (backward for the input) is our `I`, its "device" our rank, its "stage" ours too:
two per rank, down the ranks and back up. In the paper V-ZB is the building block with four cells
per hop down and two per hop up; in the authors' code it is their older ZB-V generator. Here it is
the best of what holds as much: that generator, ZB-V's fixed order, and the adaptive scheduler's
blocks, that of the paper among them.
"""

from longpipe.ir import Costs, Problem, Schedule, v
from longpipe.schedules import zb_v
from longpipe.schedules._limit import at_least, limit_cells
from longpipe.schedules._registry import schedule
from longpipe.schedules._v_search import search


@schedule(
    "seq-v-zb",
    title="Seq-V-ZB",
    paper="Qi et al., arXiv:2405.15362, over the segments of arXiv:2406.03488",
    chunks=2,
    segments=True,
    splits=True,
    bubble="(p-1)F/(2k) (span bubble 0) with F = I = W and m k >= 2p + k - 2",
    peak="min(p + k - 1, m k)/k",
)
@schedule(
    "v-zb",
    title="V-ZB",
    paper="Qi et al., arXiv:2405.15362 and arXiv:2401.10241",
    chunks=2,
    splits=True,
    bubble="(p-1)F/2 (span bubble 0) with F = I = W and m >= 2p-1",
    peak="min(p, m)",
)
def build(problem: Problem, *, costs: Costs) -> Schedule:
    """The order with the least cost (longest span of a rank) that holds no more than ZB-V's.

    That is p micro-batches and k - 1 segments; where segments or stages differ in size, whatever
    ZB-V's fixed order holds of them on each rank.
    """
    p, k = problem.ranks, problem.segments_max
    fixed = zb_v.build(problem)
    limit = at_least(limit_cells(problem, v(p), costs, (p + k - 1) / k), fixed, costs)
    return search(problem, costs, limit) or fixed
