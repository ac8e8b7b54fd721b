"""The two shapes of row that most published schedules share."""

from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

from longpipe.ir import Kind, Op

T = TypeVar("T")


def alternate(forward: Sequence[T], backward: Sequence[T], warm: int) -> tuple[T, ...]:
    """1F1B's row: `warm` forwards, then a forward and a backward in turn, then the backwards left.

    With `warm` beyond the number of forwards, all of them come first.
    """
    warm = min(warm, len(forward))
    turns = len(forward) - warm
    steady = zip(forward[warm:], backward[:turns], strict=True)
    return (*forward[:warm], *chain.from_iterable(steady), *backward[turns:])


def alternate_split(
    forward: Sequence[Op], backward: Sequence[Op], warm: int, lag: int
) -> tuple[Op, ...]:
    """ZB-H1's row: 1F1B over the `I`s in `backward`; a `W` comes once more than `lag` are due.

    The W's follow in the order of their I's; those still due at the end close the row.
    """
    row: list[Op] = []
    due: list[Op] = []
    for op in alternate(forward, backward, warm):
        row.append(op)
        if op.kind is Kind.I:
            due.append(op._replace(kind=Kind.W))
            if len(due) > lag:
                row.append(due.pop(0))
    return (*row, *due)
