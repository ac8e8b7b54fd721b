"""Which kinds may stand in a Schedule and in a Program, and whether the placement is total."""

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, MESSAGES, SHARDING, Program, Schedule


def check_spec(what: Schedule | Program) -> None:
    """Rows, placement and kinds fit the Problem and the level; raise ScheduleError if not."""
    _check_shape(what)
    legal = COMPUTE | SHARDING
    if isinstance(what, Program):
        legal |= MESSAGES
    for rank, row in enumerate(what.rows):
        for position, op in enumerate(row):
            if op.kind not in legal:
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} cannot stand in a "
                    f"{type(what).__name__}, which holds {' '.join(sorted(legal))} only: "
                    "delete it, or make a Program (passes.add_messages places every message)"
                )


def _check_shape(what: Schedule | Program) -> None:
    problem, placement = what.problem, what.placement
    if len(what.rows) != problem.ranks:
        raise ScheduleError(
            f"{what.name or 'the schedule'} has {len(what.rows)} rows for {problem.ranks} ranks: "
            "give one row for each rank, empty if it runs nothing"
        )
    if placement.ranks != problem.ranks or placement.stages != problem.stages:
        raise ScheduleError(
            f"the placement puts {placement.stages} stages on {placement.ranks} ranks, but the "
            f"problem has {problem.stages} stages ({problem.ranks} ranks, {problem.chunks} chunks "
            f"each): list a rank for each of the stages 0 to {problem.stages - 1}"
        )
    if len(placement.by_mb) not in (1, problem.microbatches):
        raise ScheduleError(
            f"the placement has {len(placement.by_mb)} rows for {problem.microbatches} "
            "micro-batches: give one row for all, or one for each"
        )
