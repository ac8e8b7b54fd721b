"""Schedules and programs as text that people write, review in diffs, and read back.

    # ir 1 | seq1f1b ranks=2 microbatches=1 segments=2
    r0: 0F0 0F0.1 0B0.1 0B0
    r1: 1F0 1F0.1 1B0.1 1B0

The header may add `chunks=2`, `segments=[2,3]` (a count for each micro-batch), `placement=v`,
`placement=bidirectional` (the second half of the micro-batches goes up the ranks) or
`placement=[0,1,1,0]` (a rank for each stage; a list of lists: a row for each micro-batch), and
`level=program`. Blank lines, comments from `#` and notes after a second `|` are skipped, and so
are the cells `.` (idle) and `-` (the op goes on) of text pictures.

Two neighbours that a model may fuse are one word, `(0F1;0B0)OVERLAP_F_B` as torch writes it, or
`0F1&0B0` as pictures do. Where messages stand between the two, a line after the rows,
`pairs: 0F1&0B0`, names them.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, NoReturn

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir.kind import MESSAGES
from longpipe.ir.op import Op
from longpipe.ir.placement import Placement, bidirectional, loop, v
from longpipe.ir.problem import Problem
from longpipe.ir.schedule import Pairs, Program, Schedule
from longpipe.ir.torch_csv import from_torch_csv

_EXAMPLE = "# ir 1 | my-schedule ranks=2 microbatches=4"
_FIELDS = ("ranks", "microbatches", "chunks", "segments", "placement", "level")
_LEVELS: dict[str, type[Schedule] | type[Program]] = {"schedule": Schedule, "program": Program}
_HEADER = re.compile(r"\s*#\s*ir\s+(\S+)\s*\|")
_ROW = re.compile(r"r(\d{1,18}):?", re.ASCII)
_ACTION = re.compile(r"[\s,]*\(?\d+[A-Z]", re.ASCII)  # the first cell of a CSV that is not empty
_MOST_PLACED = 1_000_000
_SKIPPED = frozenset({".", "-"})
_PAIR = re.compile(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B|([^&]*)&([^&]*)")
_PAIR_WORD = "({};{})OVERLAP_F_B"
_PAIRS = "pairs:"


def to_text(what: Schedule | Program) -> str:
    """Print the file form; `from_text` reads it back equal.

    >>> from longpipe.ir import Kind
    >>> row = (Op(Kind.F, stage=0, mb=0), Op(Kind.B, stage=0, mb=0))
    >>> print(to_text(Schedule("tiny", Problem(ranks=1, microbatches=1), loop(1), (row,))), end="")
    # ir 1 | tiny ranks=1 microbatches=1
    r0: 0F0 0B0
    """
    if re.search(r"[\s=|#]", what.name):
        raise ScheduleError(f"a name in a file has no spaces, '=', '|' or '#', got {what.name!r}")
    lines = [" ".join(filter(None, ("# ir 1 |", what.name, *_fields(what))))]
    apart = set(what.pairs)
    for rank, row in enumerate(what.rows):
        words = [str(op) for op in row]
        for position, pair in enumerate(pairwise(row)):
            if pair in apart and words[position]:
                apart.remove(pair)
                words[position : position + 2] = [_PAIR_WORD.format(*pair), ""]
        lines.append(" ".join(filter(None, (f"r{rank}:", *words))))
    if apart:
        lines.append(" ".join((_PAIRS, *(f"{first}&{second}" for first, second in sorted(apart)))))
    return "\n".join(lines) + "\n"


def _fields(what: Schedule | Program) -> Iterator[str]:
    problem, placement = what.problem, what.placement
    yield f"ranks={problem.ranks}"
    yield f"microbatches={problem.microbatches}"
    if problem.chunks != 1:
        yield f"chunks={problem.chunks}"
    if problem.segments != 1:
        yield f"segments={_compact(problem.segments)}"
    if placement != loop(problem.ranks, problem.chunks):
        yield f"placement={_placed(placement, problem)}"
    if isinstance(what, Program):
        yield "level=program"


def _placed(placement: Placement, problem: Problem) -> str:
    rows = placement.by_mb
    if placement == v(problem.ranks):
        return "v"
    if len(rows) > 1 and placement == bidirectional(problem.ranks, problem.microbatches):
        return "bidirectional"
    return _compact(rows if len(rows) > 1 else rows[0])


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def from_text(text: str) -> Schedule | Program:
    """Read the file form: a Program if it says so or has messages, else a Schedule.

    Checks that it can be read, not that the order is right, which is for `validate`. Raises
    ScheduleError with line and column.
    """
    header: _Header | None = None
    rows: dict[int, tuple[Op, ...]] = {}
    pairs: set[tuple[Op, Op]] = set()
    for line, content in enumerate(text.splitlines(), 1):
        if header is None and _HEADER.match(content):
            header = _header(line, content)
            continue
        words = list(re.finditer(r"\S+", content.partition("#")[0]))
        if not words:
            continue
        if header is None:
            _fail(line, 1, f"rows come after the header; begin with a line such as {_EXAMPLE}")
        if words[0][0] == _PAIRS:
            pairs |= _ops(line, words[1:])[1]
            continue
        rank = _rank(line, words[0], header, rows)
        rows[rank], found = _ops(line, words[1:])
        pairs |= found
    if header is None:
        raise ScheduleError(f"there is no header; begin with a line such as {_EXAMPLE}")
    for rank in range(header.problem.ranks):
        if rank not in rows:
            _fail(header.line, 1, f"ranks={header.problem.ranks}, but no line begins with r{rank}:")
    has_messages = any(op.kind in MESSAGES for row in rows.values() for op in row)
    level = _LEVELS[header.level or ("program" if has_messages else "schedule")]
    ordered = tuple(rows[rank] for rank in range(header.problem.ranks))
    return level(header.name, header.problem, header.placement, ordered, frozenset(pairs))


def read(text: str, *, segments: int = 1) -> Schedule | Program:
    """Read a schedule from the content of a file, ours or torch's CSV, whichever it is.

    `segments` is for torch's CSV alone, which does not say it (see `from_torch_csv`).
    """
    start = text.lstrip()
    if start.startswith("#") or _ROW.match(start):
        return from_text(text)
    if not _ACTION.match(start):
        raise ScheduleError(
            "line 1: this is neither our text, which begins with a line such as "
            f"{_EXAMPLE!r}, nor torch's CSV, which has a line such as 0F0,0F1,0B0,0B1 for each rank"
        )
    return from_torch_csv(text, segments=segments)


class _Header(NamedTuple):
    line: int
    name: str
    problem: Problem
    placement: Placement
    level: str | None


def _header(line: int, content: str) -> _Header:
    found = _HEADER.match(content)
    assert found, "called for a header only"
    if found[1] != "1":
        _fail(line, found.start(1) + 1, f"this is ir {found[1]}, but only ir 1 can be read here")
    end = content.find("|", found.end())  # what follows is a note
    name = ""
    values: dict[str, object] = {}
    for word in re.compile(r"\S+").finditer(
        content, found.end(), end if end >= 0 else len(content)
    ):
        key, equals, value = word[0].partition("=")
        if equals:
            values[key] = _value(line, word.start() + 1, key, value)
        elif name or values:
            _fail(line, word.start() + 1, f"{key!r} is no field; write field=value, without spaces")
        else:
            name = key
    try:
        problem = _problem(values)
        return _Header(line, name, problem, _placement(values, problem), _level(values))
    except ProblemError as fault:
        _fail(line, 1, str(fault))


def _value(line: int, column: int, key: str, value: str) -> object:
    """A number, a list as tuple, or a word."""
    if key not in _FIELDS:
        near = difflib.get_close_matches(key, _FIELDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"fields are {', '.join(_FIELDS)}"
        _fail(line, column, f"unknown field {key!r}: {hint}")
    if re.fullmatch(r"[a-z]+", value):
        return value
    try:
        return _frozen(json.loads(value))
    except (ValueError, RecursionError):
        _fail(line, column, f"cannot read {key}={value}: write a number or, without spaces, a list")


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _problem(values: dict[str, object]) -> Problem:
    for needed in ("ranks", "microbatches"):
        if needed not in values:
            raise ProblemError(f"the header has no {needed}: write it as in {_EXAMPLE}")
    sizes = {key: values[key] for key in _FIELDS[:4] if key in values}
    return Problem(**sizes)  # type: ignore[arg-type]  # Problem checks each value


def _placement(values: dict[str, object], problem: Problem) -> Placement:
    value = values.get("placement", "loop")
    rows_of = problem.microbatches if value == "bidirectional" else 1
    for what, count in (("stages", problem.stages), ("micro-batches to place", rows_of)):
        if count > _MOST_PLACED:  # a typo must not fill the memory
            raise ProblemError(f"{count:,} {what}, but a file may have at most {_MOST_PLACED:,}")
    if value == "loop":
        return loop(problem.ranks, problem.chunks)
    if value == "v":
        return v(problem.ranks)
    if value == "bidirectional":
        return bidirectional(problem.ranks, problem.microbatches)
    rows = value if isinstance(value, tuple) and value and isinstance(value[0], tuple) else (value,)
    if not all(isinstance(row, tuple) and all(type(r) is int for r in row) for row in rows):
        raise ProblemError(
            f"placement={value} is not loop, v, bidirectional, or a list with a rank for "
            "each stage, as [0,1,1,0]"
        )
    return Placement(problem.ranks, rows)


def _level(values: dict[str, object]) -> str | None:
    level = values.get("level")
    if level is not None and level not in _LEVELS:
        raise ProblemError(f"level={level} is not schedule or program")
    return None if level is None else str(level)


def _rank(line: int, word: re.Match[str], header: _Header, rows: dict[int, tuple[Op, ...]]) -> int:
    found = _ROW.fullmatch(word[0])
    if not found:
        _fail(line, word.start() + 1, f"a row begins with its rank, as r0: does, not {word[0]!r}")
    rank = int(found[1])
    if rank >= header.problem.ranks:
        _fail(line, word.start() + 1, f"the header says ranks={header.problem.ranks}, got r{rank}")
    if rank in rows:
        _fail(line, word.start() + 1, f"r{rank} has a second row: join the two in one line")
    return rank


def _ops(line: int, words: Sequence[re.Match[str]]) -> tuple[tuple[Op, ...], Pairs]:
    """The ops of a row and its pairs; a picture's `&0B0` pairs with the op before."""
    ops: list[Op] = []
    pairs = []
    for word in words:
        if word[0] in _SKIPPED:
            continue
        pair = _PAIR.fullmatch(word[0])
        if pair is None:
            ops.append(_op(line, word.start(), word[0]))
            continue
        group = 1 if pair[2] is not None else 3
        if pair[group] or not ops:
            ops.append(_op(line, word.start() + pair.start(group), pair[group]))
        ops.append(_op(line, word.start() + pair.start(group + 1), pair[group + 1]))
        pairs.append((ops[-2], ops[-1]))
    return tuple(ops), frozenset(pairs)


def _op(line: int, start: int, text: str) -> Op:
    try:
        return Op.parse(text)
    except ScheduleError as fault:
        _fail(line, start + 1, str(fault))


def _fail(line: int, column: int, fault: str) -> NoReturn:
    raise ScheduleError(f"line {line}, column {column}: {fault}") from None
