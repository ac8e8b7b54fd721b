"""A memory limit in micro-batches, as cells of a cost model."""

from itertools import accumulate
from math import isnan

from longpipe.errors import ProblemError
from longpipe.ir import Costs, Kind, Op, Placement, Problem, Schedule

_ROUNDING = 1e-9  # a limit that an order meets exactly must not be missed by rounding


def limit_cells(
    problem: Problem, placement: Placement, costs: Costs, memory_limit: float
) -> tuple[float, ...]:
    """Cells that each rank may hold: `memory_limit` full micro-batches on its full stage.

    A full micro-batch counts what the F's of all its segments on all chunks of the rank hold,
    whatever the cost model counts (conservative activations, or M_I and M_W as in
    arXiv:2401.10241); of several micro-batches the one with most segments. Raises ProblemError
    where the limit is no number: every comparison with it would be false, as if there were none.
    """
    if isnan(memory_limit):
        raise ProblemError("memory_limit=nan is no number: set it to micro-batches, such as 4")
    mb = max(range(problem.microbatches), key=problem.segments_of)
    cells: list[float] = [0] * problem.ranks
    for stage in range(problem.stages):
        for seg in range(problem.segments_of(mb)):
            cells[placement(stage, mb)] += costs.holds(Op(Kind.F, stage, mb, seg))
    return tuple(memory_limit * whole * (1 + _ROUNDING) for whole in cells)


def at_least(limit: tuple[float, ...], schedule: Schedule, costs: Costs) -> tuple[float, ...]:
    """The limit of each rank, raised to what a schedule without recompute holds there."""
    held = (max(accumulate((costs.holds(op) for op in row), initial=0.0)) for row in schedule.rows)
    return tuple(map(max, limit, (cells * (1 + _ROUNDING) for cells in held)))
