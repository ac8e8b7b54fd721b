"""The memory bound of each rank."""

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, Costs, Program, Schedule, row_memory


def validate_memory(what: Schedule | Program, costs: Costs, limit: float) -> None:
    """No rank ever needs more than `limit` memory cells (see `Costs`) for its activations.

    Counts what ops hold and free in the order of the row, and each op's scratch at its own peak.
    Raises ScheduleError at the first op that goes over.
    """
    for rank, row in enumerate(what.rows):
        computes = [(position, op) for position, op in enumerate(row) if op.kind in COMPUTE]
        memories = row_memory([op for _, op in computes], costs)
        held: float = 0
        for (position, op), memory in zip(computes, memories, strict=True):
            peak = max(held + memory.scratch, held + memory.holds)
            if peak > limit:
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} raises the memory from {held} to {peak} "
                    f"cells, over the limit of {limit}: use a schedule that holds fewer "
                    "micro-batches, more segments, or a higher limit"
                )
            held += memory.holds
