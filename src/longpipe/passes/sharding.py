"""When to gather and reduce the weights of each stage, sharded over copies of the pipeline.

Lamy-Poirier's rule (arXiv:2211.05953) for weights and gradients that live in shards (ZeRO-3): a
rank has a few buffers for whole weights, its stages share them in turn, and a buffer is filled
again as soon as its last use is over, so that the gather runs beside other ops (the paper's
"restore" is our UNSHARD, its "reduce" our REDUCE_GRAD).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from typing import NamedTuple, TypeVar

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import COMPUTE, SENDS, SHARDING, WEIGHT_GRAD, Kind, Op, Program, Schedule

Rewritten = TypeVar("Rewritten", bound=Schedule | Program)


class _Shard(NamedTuple):
    kind: Kind
    stage: int


_Gaps = defaultdict[int, list[_Shard]]  # what comes after the n-th compute op; -1: before all


def add_sharding(schedule: Rewritten, buffers: int = 2, filling: int = 1) -> Rewritten:
    """Put UNSHARD, RESHARD and REDUCE_GRAD at their places, for every stage.

    A rank has `buffers` buffers for whole weights: its n-th stage (from 0) uses buffer n mod
    `buffers`. UNSHARD comes right after the last op that used the buffer, behind the RESHARD of
    the stage that it held. `filling` gradient buffers, shared in the same way, fill at a time:
    REDUCE_GRAD comes after the last B or W of a stage before another stage takes its buffer. A
    gradient on its way into shards needs room too, so `filling=1` takes two buffers. In a Program
    all of them stand behind the SEND of the op before. A pair between whose ops a stage must be
    gathered is a pair no longer.

    Passes that move or add ops come first. The schedule must be valid (see `validate`), and what
    comes out is. Raises ProblemError for no buffers, ScheduleError if there is sharding already.

    >>> from longpipe.ir import Problem, loop
    >>> row = tuple(map(Op.parse, "0F0 1F0 2F0 2B0 1B0 0B0".split()))
    >>> three = Schedule("", Problem(ranks=1, microbatches=1, chunks=3), loop(1, 3), (row,))
    >>> ops = list(map(str, add_sharding(three).rows[0]))
    >>> print(*ops[:8]); print(*ops[8:])
    0UNSHARD0 1UNSHARD0 0F0 0RESHARD0 2UNSHARD0 1F0 2F0 2B0
    2REDUCE_GRAD0 2RESHARD0 0UNSHARD1 1B0 1REDUCE_GRAD0 1RESHARD0 0B0 0REDUCE_GRAD0 0RESHARD1
    """
    if buffers < 1 or filling < 1:
        raise ProblemError(
            f"add_sharding needs buffers, got buffers={buffers}, filling={filling}: use at least 1"
        )
    if any(op.kind in SHARDING for row in schedule.rows for op in row):
        raise ScheduleError(
            f"{schedule.name or 'the schedule'} gathers and reduces already: "
            "give add_sharding the schedule without"
        )
    numbers: defaultdict[_Shard, Iterator[int]] = defaultdict(count)
    pairs = set(schedule.pairs)
    rows = []
    for rank, row in enumerate(schedule.rows):
        slots = {stage: n for n, stage in enumerate(schedule.placement.stages_of(rank))}
        ops = [op for op in row if op.kind in COMPUTE]
        gaps = _gathers(ops, slots, buffers, _reductions(ops, slots, filling))
        _spare_pairs(ops, gaps, pairs)
        rows.append(tuple(_woven(row, gaps, numbers)))
    return replace(schedule, rows=tuple(rows), pairs=frozenset(pairs))


def without_sharding(schedule: Rewritten) -> Rewritten:
    """Leave the sharding ops out, for a run whose ranks hold their weights whole."""
    rows = tuple(tuple(op for op in row if op.kind not in SHARDING) for row in schedule.rows)
    return replace(schedule, rows=rows)


def _reductions(ops: list[Op], slots: dict[int, int], filling: int) -> _Gaps:
    gaps: _Gaps = defaultdict(list)
    last: dict[int, tuple[int, int]] = {}  # by buffer: last backward in it, and its stage
    for index, op in enumerate(ops):
        if op.kind in WEIGHT_GRAD:
            buffer = slots[op.stage] % filling
            before, stage = last.get(buffer, (index, op.stage))
            if stage != op.stage:
                gaps[before].append(_Shard(Kind.REDUCE_GRAD, stage))
            last[buffer] = (index, op.stage)
    for index, stage in last.values():
        gaps[index].append(_Shard(Kind.REDUCE_GRAD, stage))
    return gaps


def _gathers(ops: list[Op], slots: dict[int, int], buffers: int, gaps: _Gaps) -> _Gaps:
    """`gaps` with the gathers too, each behind what frees its buffer."""
    last: dict[int, tuple[int, int]] = {}  # by buffer: last op that used it, and its stage
    for index, op in enumerate(ops):
        buffer = slots[op.stage] % buffers
        before, stage = last.get(buffer, (-1, -1))
        if stage != op.stage:
            if stage >= 0:
                gaps[before].append(_Shard(Kind.RESHARD, stage))
            gaps[before].append(_Shard(Kind.UNSHARD, op.stage))
        last[buffer] = (index, op.stage)
    for index, stage in last.values():
        gaps[index].append(_Shard(Kind.RESHARD, stage))
    return gaps


def _spare_pairs(ops: list[Op], gaps: _Gaps, pairs: set[tuple[Op, Op]]) -> None:
    """Move what stands within a pair behind it; where the pair needs it, the pair is none."""
    for index, (first, second) in enumerate(pairwise(ops)):
        if (first, second) in pairs and index in gaps:
            if _Shard(Kind.UNSHARD, second.stage) in gaps[index]:
                pairs.remove((first, second))
            else:
                gaps[index + 1] = gaps.pop(index) + gaps[index + 1]


def _woven(
    row: tuple[Op, ...], gaps: _Gaps, numbers: defaultdict[_Shard, Iterator[int]]
) -> Iterator[Op]:
    """The row with what `gaps` has, numbered by kind and stage."""
    done = -1  # compute ops so far, less one
    due = gaps.get(done, [])
    for op in row:
        if op.kind not in SENDS:
            yield from (Op(*shard, next(numbers[shard])) for shard in due)
            due = []
        yield op
        if op.kind in COMPUTE:
            done += 1
            due = gaps.get(done, [])
    yield from (Op(*shard, next(numbers[shard])) for shard in due)
