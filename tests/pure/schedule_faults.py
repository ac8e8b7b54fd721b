"""Right schedules, and edits that put a fault into one rank's row."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from longpipe.ir import Op, Problem, Program, Schedule
from longpipe.passes import add_messages
from longpipe.schedules import build

Row = tuple[Op, ...]
Edit = Callable[[Row], Row]
Level = TypeVar("Level", Schedule, Program)

SEQ = build("seq1f1b", Problem(ranks=2, microbatches=3, segments=2))
SPLIT = build("seq-zb-h1", Problem(ranks=2, microbatches=2, segments=2))
V = build("zb-v", Problem(ranks=2, microbatches=4, chunks=2))
SENT = add_messages(SEQ)


def edited(what: Level, rank: int, edit: Edit) -> Level:
    """`what` with one rank's row rewritten."""
    rows = list(what.rows)
    rows[rank] = edit(rows[rank])
    return replace(what, rows=tuple(rows))


def swap(a: str, b: str) -> Edit:
    names = {Op.parse(a): Op.parse(b), Op.parse(b): Op.parse(a)}
    return lambda row: tuple(names.get(op, op) for op in row)


def delete(*texts: str) -> Edit:
    gone = {Op.parse(text) for text in texts}
    return lambda row: tuple(op for op in row if op not in gone)


def insert(before: str, *texts: str) -> Edit:
    new = tuple(map(Op.parse, texts))

    def edit(row: Row) -> Row:
        at = row.index(Op.parse(before))
        return (*row[:at], *new, *row[at:])

    return edit


def put(old: str, *texts: str) -> Edit:
    new = tuple(map(Op.parse, texts))
    return lambda row: tuple(o for op in row for o in (new if op == Op.parse(old) else (op,)))


def after_all(text: str) -> Edit:
    return lambda row: (*delete(text)(row), Op.parse(text))
