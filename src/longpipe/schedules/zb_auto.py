"""The automatic zero-bubble schedule: an order searched with the true costs, within the memory.

The paper's "B" (backward for the input) is our `I`, its "stage" our rank, its "cost" our span; its
ZB-1p and ZB-2p are memory limits of p and 2p micro-batches. The heuristic of its section 3.1 is in
`_zb_greedy`. What it finds competes with the hand-made orders that fit the limit and with orders
that never let a rank wait with work at hand (`_zb_ready`, much better below p micro-batches), and
the best go through an improvement step (`_zb_improve`). Neither the span nor the makespan is ever
longer than that of the heuristic's best.

Over segments F, I and W cannot all be balanced by one cut, since attention has no weights: the
search sees the ticks of each op.
"""

from longpipe.ir import Costs, Problem, Schedule
from longpipe.schedules import seq1f1b, zb_h1, zb_h2
from longpipe.schedules._registry import schedule
from longpipe.schedules._zb_search import search
from longpipe.schedules._zb_streams import limited, one_by_one, to_letters, to_schedule


@schedule(
    "zb-auto",
    title="Automatic zero bubble",
    paper="Qi et al., arXiv:2401.10241",
    splits=True,
    bubble="span bubble max(0, 2p-1-L) with F = I = W, L >= p and m >= 2p-1",
    peak="min(L, m)",
)
@schedule(
    "seq-zb-auto",
    title="Automatic zero bubble over segments",
    paper="the search of Qi et al., arXiv:2401.10241, over the segments of Sun et al., "
    "arXiv:2406.03488",
    segments=True,
    splits=True,
    bubble="(p-1)(F+I-W)/k or less, as the limit allows",
    peak="min(L, m)",
)
def build(problem: Problem, *, costs: Costs, memory_limit: float | None = None) -> Schedule:
    """Search for the least span, then the least makespan, within the limit on every rank.

    `memory_limit` L counts full micro-batches on a full stage, in the cost model's own accounting
    of F, I and W; None stands for what ZB-H1 needs: p with whole micro-batches, (p+k-1)/k with k
    equal segments. Raises ProblemError where a single micro-batch does not fit. Time grows
    linearly with the ops; large problems get fewer candidates and no improvement step.
    """
    by_hand = [to_letters(each.build(problem)) for each in (zb_h1, zb_h2, seq1f1b)]
    ops = limited(problem, costs, memory_limit, default=by_hand[0])
    serial = (one_by_one(problem),) * problem.ranks
    return to_schedule(search(ops, [*by_hand, serial]), problem)
