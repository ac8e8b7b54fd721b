"""Every op exactly once, in range, on the rank that the placement says."""

from collections import Counter

from longpipe.errors import ScheduleError
from longpipe.ir import SHARDING, Kind, Op, Problem, Program, Schedule, provides

Places = dict[Op, int]
"""Position of each compute op or message in its rank's row, under what it `provides`."""


def check_complete(what: Schedule | Program) -> Places:
    """Nothing out of place, nothing twice, nothing missing; raise ScheduleError if not.

    Each (stage, mb, seg) needs F once, and either B once, or I and W once each. Messages are
    checked for range, rank and duplicates here, and for the rest in `messages`; sharding ops, which
    name no micro-batch, in `sharding`.
    """
    places = _place(what)
    if not _adds_up(what, places):
        for stage, mb, seg in what.problem.unit_slots():
            _check_unit(what, places, Op(Kind.F, stage, mb, seg))
        raise AssertionError("the ops do not add up, yet every unit is complete")
    return places


def _adds_up(what: Schedule | Program, places: Places) -> bool:
    """Whether every unit is complete; counting is enough, since no op is twice or out of range."""
    problem = what.problem
    counts = Counter(op.kind for row in what.rows for op in row)
    segments = problem.segments
    total = sum(segments) if isinstance(segments, tuple) else segments * problem.microbatches
    units = problem.stages * total
    if counts[Kind.F] != units or counts[Kind.B] + counts[Kind.I] != units:
        return False
    splits = (
        op.kind is Kind.W and row[places[op._replace(kind=Kind.I)]].kind is Kind.I
        for row in what.rows
        for op in row
    )
    return counts[Kind.W] == counts[Kind.I] == (sum(splits) if counts[Kind.W] else 0)


def _place(what: Schedule | Program) -> Places:
    problem, placement = what.problem, what.placement
    places: Places = {}
    for rank, row in enumerate(what.rows):
        for position, op in enumerate(row):
            if op.kind in SHARDING:
                continue
            _, stage, mb, seg = op
            if not (
                0 <= stage < problem.stages
                and 0 <= mb < problem.microbatches
                and 0 <= seg < problem.segments_of(mb)
            ):
                raise ScheduleError(f"rank {rank}, op {position}: {_out_of_range(op, problem)}")
            if placement(stage, mb) != rank:
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} stands on the wrong rank: stage {stage} of "
                    f"micro-batch {mb} lies on rank {placement(stage, mb)}, move it there"
                )
            earlier = places.setdefault(provides(op), position)
            if earlier != position:
                raise ScheduleError(_twice(rank, row, earlier, position))
    return places


def _out_of_range(op: Op, problem: Problem) -> str:
    if not 0 <= op.stage < problem.stages:
        what, index, count = "stage", op.stage, problem.stages
    elif not 0 <= op.mb < problem.microbatches:
        what, index, count = "micro-batch", op.mb, problem.microbatches
    else:
        what, index, count = "segment", op.seg, problem.segments_of(op.mb)
    return (
        f"{op} names {what} {index}, but only 0 to {count - 1} exist: "
        "correct the op, or the Problem that counts them"
    )


def _twice(rank: int, row: tuple[Op, ...], earlier: int, later: int) -> str:
    first, second = row[earlier], row[later]
    if first == second:
        return (
            f"rank {rank}, op {later}: {second} is there twice, first as op {earlier}: delete one"
        )
    return (
        f"rank {rank}, op {later}: {second} repeats the backward that {first} (op {earlier}) runs: "
        f"keep a full B, or an I and a W, not both"
    )


def _check_unit(what: Schedule | Program, places: Places, forward: Op) -> None:
    _, stage, mb, seg = forward
    full, split = Op(Kind.B, stage, mb, seg), Op(Kind.I, stage, mb, seg)
    weight = Op(Kind.W, stage, mb, seg)
    backward_at, weight_at = places.get(split), places.get(weight)
    rank = what.placement(stage, mb)
    if forward not in places:
        raise ScheduleError(f"rank {rank} has no {forward}: add it, each unit runs F exactly once")
    if backward_at is None:
        orphan = "" if weight_at is None else f" before {weight}, op {weight_at}, which needs it"
        raise ScheduleError(
            f"rank {rank} runs {forward} (op {places[forward]}) but neither {full} nor {split}: "
            f"add {split if orphan else f'{full}, or {split} and {weight}'}{orphan}"
        )
    is_full = what.rows[rank][backward_at].kind is Kind.B
    if is_full and weight_at is not None:
        raise ScheduleError(
            f"rank {rank}, op {weight_at}: {weight} would add the weight gradient again, which "
            f"{full} (op {backward_at}) adds already: delete it, or make op {backward_at} {split}"
        )
    if not is_full and weight_at is None:
        raise ScheduleError(
            f"rank {rank}, op {backward_at}: {split} has no {weight}, so the weight gradient would "
            f"be lost: add {weight} after it, or make it {full}"
        )
