"""The order of compute against the data flow, KV and dKV edges included."""

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, Kind, Op, Program, Schedule, needs, walk
from longpipe.validate.complete import Places


def check_order(what: Schedule | Program, places: Places) -> None:
    """The compute ops run to the end, messages aside; raise ScheduleError if not.

    Where a rank's own row is at fault, the error names the two ops; else the cycle over ranks.
    """
    problem = what.problem
    try:
        for _ in walk(what.rows, lambda op: needs(op, problem) if op.kind in COMPUTE else ()):
            pass
    except ScheduleError as fault:
        raise ScheduleError(_own_fault(what, places) or str(fault)) from None
    check_recompute(what, places)


def check_recompute(what: Schedule | Program, places: Places) -> None:
    """Each R comes before the backward that reads what it makes; raise ScheduleError if not."""
    for rank, row in enumerate(what.rows):
        for position, op in enumerate(row):
            if op.kind is Kind.R and places[op._replace(kind=Kind.I)] < position:
                reader = places[op._replace(kind=Kind.I)]
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} comes after {row[reader]} (op {reader}), "
                    f"which reads the activations that it makes: move it before that op"
                )


def _own_fault(what: Schedule | Program, places: Places) -> str | None:
    """The first op that comes before an op of the same rank which it needs."""
    for rank, row in enumerate(what.rows):
        for position, op in enumerate(row):
            if op.kind not in COMPUTE:
                continue
            for need in needs(op, what.problem):
                after = places[need]
                if what.placement(need.stage, need.mb) == rank and after > position:
                    return (
                        f"rank {rank}, op {position}: {op} comes before {row[after]} (op {after}), "
                        f"but {op} <- {row[after]}: {_reason(op, need)}. "
                        f"Move {op} after op {after}, or {row[after]} before op {position}."
                    )
    return None


def _reason(op: Op, need: Op) -> str:
    """Why `op` needs `need`, in words."""
    if op.kind is Kind.F and need.stage == op.stage:
        return f"its attention reads KV, the keys and values of segment {need.seg}"
    if op.kind is Kind.F:
        return f"its input is the output of stage {need.stage}"
    if op.kind is Kind.W:
        return "it computes the weight gradient that this op queues"
    if op.kind is Kind.R:
        return "it starts from the input that this op saves"
    if need.kind is Kind.F:
        return "it reads what its own forward saved"
    if need.stage == op.stage:
        return (
            f"it reads dKV, the gradient of its keys and values, from segment {need.seg}, "
            "so backwards run the last segment first"
        )
    return f"it reads the gradient of its output from stage {need.stage}"
