"""Pairs that a model may fuse: two neighbours of a row that can run as one op."""

from collections.abc import Iterable

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, INPUT_GRAD, Kind, Op, Program, Schedule, needs, provides, walk
from longpipe.validate.complete import Places


def check_pairs(what: Schedule | Program, places: Places) -> None:
    """A pair is a forward and, next in its row, a backward of another unit; fused, none deadlocks.

    Fused, a pair starts when both of its ops can, and both results are there at its end. The rows
    must be valid without it. Raises ScheduleError that names the pair.
    """
    if not what.pairs:
        return
    for first, second in sorted(what.pairs):
        _check_pair(what, places, first, second)
    partner = dict(what.pairs)

    def waits(op: Op) -> Iterable[Op]:
        if op.kind not in COMPUTE:
            return ()
        own = needs(op, what.problem)
        return (*own, *needs(partner[op], what.problem)) if op in partner else own

    try:
        for _ in walk(what.rows, waits):
            pass
    except ScheduleError as fault:
        raise ScheduleError(f"where a pair starts only once both its ops can: {fault}") from None


def _check_pair(what: Schedule | Program, places: Places, first: Op, second: Op) -> None:
    name = f"the pair {first} and {second}"
    if first.kind is not Kind.F or second.kind not in INPUT_GRAD:
        raise ScheduleError(
            f"{name} cannot be fused: write an F first and then a B or an I, or run them apart"
        )
    for op in (first, second):
        found = what.rows[_rank_of(what, op)] if _exists(what, op) else ()
        position = places.get(provides(op))
        if position is None or position >= len(found) or found[position] != op:
            raise ScheduleError(f"{name}: no rank runs {op}, correct the pair or delete it")
    rank, other = _rank_of(what, first), _rank_of(what, second)
    if rank != other:
        raise ScheduleError(
            f"{name}: {first} runs on rank {rank}, but {second} on rank {other}: "
            "pair two ops of one rank"
        )
    if first[1:] == second[1:]:
        raise ScheduleError(
            f"rank {rank}, op {places[first]}: {name} is of one unit, and {second} needs {first}: "
            "pair a forward with the backward of another micro-batch or stage"
        )
    row = what.rows[rank]
    later = (row[position] for position in range(places[first] + 1, len(row)))
    if next((op for op in later if op.kind in COMPUTE), None) != second:
        raise ScheduleError(
            f"rank {rank}, op {places[first]}: {name} are no neighbours, {second} is op "
            f"{places[provides(second)]}: move it right after {first}"
        )


def _exists(what: Schedule | Program, op: Op) -> bool:
    return op.stage < what.problem.stages and op.mb < what.problem.microbatches


def _rank_of(what: Schedule | Program, op: Op) -> int:
    return what.placement(op.stage, op.mb)
