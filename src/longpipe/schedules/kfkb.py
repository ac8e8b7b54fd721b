"""kFkB, the schedules of Ada-Grouper: k forwards, k backwards, in turn.

The paper's "k" is our `group` (g), for k is the number of segments here; its "stage" is our rank
(one chunk each). A rank runs 1F1B over groups of g units, so that the message about one unit of a
group travels while the others are computed: a latency c of each message stays hidden in the
steady state if 2c <= (g-1)(f+b), with f and b the times of one unit. Inside a group units go
forward and backward in the order of 1F1B. One unit in a group is 1F1B, all in one group GPipe.
"""

from collections.abc import Sequence
from itertools import chain

from longpipe.errors import ProblemError
from longpipe.ir import Kind, Op, Problem, Schedule, loop
from longpipe.schedules._registry import schedule
from longpipe.schedules._row import alternate

Unit = tuple[int, int]  # (mb, seg)


@schedule(
    "kfkb",
    title="kFkB (Ada-Grouper)",
    paper="Wang et al., arXiv:2303.01675",
    bubble="(p-1)(F+I+W)",
    peak="g min(p-r, m/g)",
)
@schedule(
    "seq-kfkb",
    title="kFkB over segments",
    paper="Wang et al., arXiv:2303.01675; Sun et al., arXiv:2406.03488",
    segments=True,
    bubble="(p-1)(F+I+W)/k",
    peak="g min(p-r+e, m k/g)/k, e = ceil((k - gcd(g,k))/g)",
)
def build(problem: Problem, *, group: int = 1) -> Schedule:
    """Warm up with p-1-r groups, then g forwards and g backwards in turn, then drain.

    Over segments a group is of g units: those of g/k micro-batches, or parts of one. Where a
    group ends within a micro-batch, its last segments, with which the backward begins, are in a
    later group: so many groups more are warm-up.
    """
    forward, backward = problem.units(), problem.backward_units()
    _check(len(forward), group)
    ahead = _groups_ahead(forward, backward, group)

    def row(rank: int) -> tuple[Op, ...]:
        turns = alternate(
            _grouped(Kind.F, rank, forward, group),
            _grouped(Kind.B, rank, backward, group),
            warm=problem.ranks - 1 - rank + ahead,
        )
        return tuple(chain.from_iterable(turns))

    return Schedule("", problem, loop(problem.ranks), tuple(map(row, range(problem.ranks))))


def _grouped(kind: Kind, stage: int, units: Sequence[Unit], group: int) -> list[tuple[Op, ...]]:
    ops = [Op(kind, stage, mb, seg) for mb, seg in units]
    return [tuple(ops[start : start + group]) for start in range(0, len(ops), group)]


def _groups_ahead(forward: Sequence[Unit], backward: Sequence[Unit], group: int) -> int:
    """By how many groups, at most, a backward group follows the last forward that it needs."""
    made = {unit: number // group for number, unit in enumerate(forward)}
    return max(made[unit] - number // group for number, unit in enumerate(backward))


def _check(units: int, group: int) -> None:
    if group >= 1 and units % group == 0:
        return
    divisors = [size for size in range(1, units + 1) if units % size == 0]
    below = [size for size in divisors if size < group][-1:]
    above = [size for size in divisors if size > group][:1]
    raise ProblemError(
        f"kfkb puts the units (segments of micro-batches) of a step in groups of one size, but "
        f"group={group} does not divide {units}: use group={' or '.join(map(str, below + above))}"
    )
