"""Recompute: an op of its own that makes a forward's activations again, just before they are read.

The idea of keeping little and computing again is Chen et al.'s (arXiv:1604.06174). As an op that
waits for no other rank, R runs while the gradient that its backward needs is still on its way;
recompute inside the backward begins only when the gradient is there (ChronosPipe,
arXiv:2503.03182). What an R makes again (all, or all but attention) is the model's affair.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TypeVar

from longpipe.errors import ProblemError
from longpipe.ir import INPUT_GRAD, Kind, Op, Placement, Program, Schedule

Rewritten = TypeVar("Rewritten", Schedule, Program)


def recompute(schedule: Rewritten, stages: Collection[int] | None = None) -> Rewritten:
    """Put an R before every B and I of `stages` (None: of all stages).

    Before a pair that may run fused it stands in front of both. Units that have an R keep it.
    The schedule must be valid (see `validate`), and what comes out is. Raises ProblemError for a
    stage that does not exist.

    >>> from longpipe.ir import Problem, loop
    >>> rows = tuple(tuple(map(Op.parse, row.split())) for row in ("0F0 0B0", "1F0 1B0"))
    >>> again = recompute(Schedule("", Problem(ranks=2, microbatches=1), loop(2), rows), {0})
    >>> [" ".join(map(str, row)) for row in again.rows]
    ['0F0 0R0 0B0', '1F0 1B0']
    """
    count = schedule.problem.stages
    chosen = set(range(count)) if stages is None else set(stages)
    if wrong := sorted(chosen - set(range(count))):
        raise ProblemError(f"recompute: there are stages 0 to {count - 1}, leave out {wrong}")
    first_of = {second: first for first, second in schedule.pairs}
    rows = tuple(tuple(_with_recompute(row, chosen, first_of)) for row in schedule.rows)
    return replace(schedule, rows=rows)


def _with_recompute(
    row: tuple[Op, ...], chosen: Collection[int], first_of: dict[Op, Op]
) -> Iterator[Op]:
    present = {op for op in row if op.kind is Kind.R}
    before: dict[Op, list[Op]] = {}
    for op in row:
        again = op._replace(kind=Kind.R)
        if op.kind in INPUT_GRAD and op.stage in chosen and again not in present:
            before.setdefault(first_of.get(op, op), []).append(again)
    for op in row:
        yield from before.get(op, ())
        yield op


def stages_named(text: str, placement: Placement) -> tuple[int, ...]:
    """The stages that people name: `all`, `chunk:0` (each rank's first), or numbers as in `0,3`.

    >>> from longpipe.ir import loop
    >>> stages_named("chunk:1", loop(ranks=2, chunks=2))
    (2, 3)
    """
    if text == "all":
        return tuple(range(placement.stages))
    if found := re.fullmatch(r"chunk:(\d{1,9})", text):
        held = map(placement.stages_of, range(placement.ranks))
        chunk = int(found[1])
        if stages := {own[chunk] for own in held if chunk < len(own)}:
            return tuple(sorted(stages))
        raise ProblemError(f"recompute: no rank has a chunk {chunk}: use chunk:0, or more chunks")
    if re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        return tuple(sorted({int(number) for number in text.split(",")}))
    raise ProblemError(
        f"recompute: cannot read {text!r} as stages: use all, chunk:0 (the first stage of each "
        "rank), or numbers of stages such as 0,1"
    )
