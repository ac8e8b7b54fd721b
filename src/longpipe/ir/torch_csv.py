"""The CSV of `torch.distributed.pipelining`: out, so that torch can check and run; and in.

Row i is rank i, a cell is an action such as `2F3`, or a pair such as `(0F1;0B0)OVERLAP_F_B`. Torch
knows no segments: segment `seg` of micro-batch `mb` is its microbatch `mb * segments + seg`. Nor
does it number sharding ops: its `2UNSHARD` is our `2UNSHARD0`, the next one `2UNSHARD1`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir.kind import COMPUTE, SHARDING, Kind
from longpipe.ir.op import Op
from longpipe.ir.placement import Placement
from longpipe.ir.problem import Problem
from longpipe.ir.schedule import Program, Schedule

_NUMBER = "(0|[1-9][0-9]{0,17})"  # as torch prints it: what it reads more widely is refused
_COMPUTE = re.compile(rf"{_NUMBER}([FBIW]){_NUMBER}")
_PAIR = re.compile(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B")
_SHARDING = re.compile(rf"{_NUMBER}(UNSHARD|RESHARD|REDUCE_GRAD)")
_DROPPED = re.compile(rf"{_NUMBER}(?:SEND|RECV)_[FB]{_NUMBER}")


def to_torch_csv(schedule: Schedule | Program) -> str:
    """Print a Schedule as torch's `compute_only` CSV, to which torch adds messages and sharding.

    A Program becomes its `compute_comms` CSV, which torch runs as it is; sharding ops of our own
    belong in one, since torch's `compute_only` has none. The schedule must be valid (see
    `validate`). Raises ScheduleError for what torch cannot express: segment counts that differ, a
    stage on two ranks, a pair with an I, recompute, or forwards of the last stage out of order
    (torch files its losses in the order in which they come).
    """
    segments = _even_segments(schedule.problem)
    if len(set(schedule.placement.by_mb)) > 1:
        raise ScheduleError(
            f"{schedule.name}: torch's CSV has each stage on one rank, but the placement here "
            "differs by micro-batch: this schedule cannot be exported"
        )
    seconds = {second for _, second in schedule.pairs}
    lines = []
    for rank, row in enumerate(schedule.rows):
        _check_losses(rank, row, schedule.problem.stages - 1)
        cells: list[str] = []
        for position, op in enumerate(row):
            if op.kind is Kind.R:
                raise ScheduleError(
                    f"rank {rank}, op {position}: torch has no op like {op}: export it without "
                    "recompute, or as our text"
                )
            number = "" if op.kind in SHARDING else op.mb * segments + op.seg
            cells.append(f"{op.stage}{op.kind.value}{number}")
            if op in seconds and (row[position - 1], op) in schedule.pairs:
                cells[-2:] = [_pair(schedule.name, op, cells[-2:])]
        lines.append(",".join(cells) + "\n")
    return "".join(lines)


def _check_losses(rank: int, row: Sequence[Op], last: int) -> None:
    newest = (-1, -1)
    for position, op in enumerate(row):
        if op.kind is Kind.F and op.stage == last:
            if (op.mb, op.seg) < newest:
                raise ScheduleError(
                    f"rank {rank}, op {position}: {op} on the last stage comes after a later "
                    f"unit, and torch files losses in the order in which they come: run the "
                    f"last stage's F in order to export this"
                )
            newest = op.mb, op.seg


def _pair(name: str, second: Op, cells: Sequence[str]) -> str:
    if second.kind is not Kind.B:
        raise ScheduleError(
            f"{name}: torch's pairs are of an F and a B, but {cells[0]} is paired with {second}: "
            "export it without this pair"
        )
    return f"({';'.join(cells)})OVERLAP_F_B"


def _even_segments(problem: Problem) -> int:
    counts = {problem.segments_of(mb) for mb in range(problem.microbatches)}
    if len(counts) > 1:
        raise ScheduleError(
            f"torch's CSV numbers units by mb * segments + seg, but segments={problem.segments} "
            "differ by micro-batch: export with one count for all"
        )
    return counts.pop()


def from_torch_csv(text: str, *, segments: int = 1) -> Schedule:
    """Read torch's CSV, `compute_only` or `compute_comms`, as a Schedule.

    `segments` (of each micro-batch) turns torch's microbatch number back into mb and seg. The
    placement follows from the rows. Empty cells and messages (`add_messages` places ours) are left
    out, sharding ops are numbered; OVERLAP_F_B becomes a pair.

    Raises ScheduleError with line and cell for anything that torch would not print itself.
    """
    if segments < 1:
        raise ProblemError(f"segments counts the segments of a micro-batch, got {segments}")
    lines = text.rstrip().splitlines()
    numbers: Counter[tuple[str, str]] = Counter()
    read = [_row(number, line, segments, numbers) for number, line in enumerate(lines, 1)]
    rows = tuple(tuple(op for cell in cells for op in cell) for cells in read)
    pairs = frozenset((cell[0], cell[1]) for cells in read for cell in cells if len(cell) == 2)
    owner: dict[int, int] = {}
    for rank, row in enumerate(rows):
        for op in row:
            if owner.setdefault(op.stage, rank) != rank:
                raise ScheduleError(
                    f"line {rank + 1}: {op} runs on rank {rank}, but stage {op.stage} is on rank "
                    f"{owner[op.stage]} already: torch's CSV has each stage on one rank"
                )
    problem = _problem(rows, owner, segments)
    placement = Placement(problem.ranks, (tuple(owner[s] for s in range(problem.stages)),))
    return Schedule("torch-csv", problem, placement, rows, pairs)


def _problem(rows: tuple[tuple[Op, ...], ...], owner: dict[int, int], segments: int) -> Problem:
    computes = [op for row in rows for op in row if op.kind in COMPUTE]
    if not computes:
        raise ScheduleError("this CSV has no compute action such as 0F0 in it")
    stages = max(owner) + 1
    absent = next((stage for stage in range(stages) if stage not in owner), None)
    if absent is not None:
        raise ScheduleError(f"no rank runs stage {absent}, though stage {stages - 1} is there")
    if stages % len(rows):
        raise ScheduleError(
            f"{stages} stages on {len(rows)} ranks (lines): the number of stages must be a "
            "multiple of the number of ranks"
        )
    units = max(op.mb * segments + op.seg for op in computes) + 1
    if units % segments:
        raise ScheduleError(
            f"torch's {units} microbatches do not divide into micro-batches of {segments} "
            "segments: pass the number of segments that the file was made with"
        )
    return Problem(len(rows), units // segments, stages // len(rows), segments)


def _row(
    number: int, line: str, segments: int, numbers: Counter[tuple[str, str]]
) -> list[list[Op]]:
    """The ops of each cell: one, or the two of a pair; `numbers` counts sharding ops by kind."""
    cells: list[list[Op]] = []
    for index, cell in enumerate(line.split(","), 1):
        pair = _PAIR.fullmatch(cell)
        cells.append([])
        for action in pair.groups() if pair else (cell,):
            found = _COMPUTE.fullmatch(action)
            if found:
                mb, seg = divmod(int(found[3]), segments)
                cells[-1].append(Op(Kind(found[2]), int(found[1]), mb, seg))
            elif not pair and (found := _SHARDING.fullmatch(action)):
                shard = found[1], found[2]
                cells[-1].append(Op(Kind(found[2]), int(found[1]), numbers[shard]))
                numbers[shard] += 1
            elif pair or (cell.strip() and not _DROPPED.fullmatch(cell)):
                _fail(number, index, action)
    return cells


def _fail(line: int, cell: int, action: str) -> NoReturn:
    kinds = " ".join(sorted(COMPUTE - {Kind.R}))
    raise ScheduleError(
        f"line {line}, cell {cell}: cannot read {action!r} as an action: torch prints "
        f"<stage><kind><microbatch>, such as 2F0, without spaces; compute kinds are {kinds}"
    )
