"""Doing what may fail on several ranks: all go on, or all raise and say which rank failed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from longpipe.errors import CheckpointError

T = TypeVar("T")

# DCP reports failures of other ranks as a BaseException.
_FAILURES = (Exception, CheckpointException)


def on_all(group: dist.ProcessGroup | None, work: Callable[[], T]) -> list[T]:
    """Do `work` on every rank; every rank gets the results of all, in rank order.

    Raises:
        CheckpointError: on every rank, with the reasons of those that failed.
    """
    cause: BaseException | None = None
    result: Any = None
    try:
        result = work()
    except _FAILURES as error:
        cause = error
    reason = None if cause is None else _reason(cause)
    if group is None:
        outcomes = [(reason, result)]
    else:
        outcomes = [(None, None)] * group.size()
        dist.all_gather_object(outcomes, (reason, result), group=group)
    reasons = {rank: why for rank, (why, _) in enumerate(outcomes) if why is not None}
    if reasons:
        # DCP makes every rank raise when one fails: the same reason once is enough.
        texts = dict.fromkeys(reasons.values())
        prefix = f"rank {min(reasons)}: " if group is not None else ""
        raise CheckpointError(prefix + "; ".join(texts)) from cause
    return [value for _, value in outcomes]


def on_first(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """Do `work` on the group's first rank; every rank gets its result, or its failure."""
    first = group is None or group.rank() == 0
    results: list[Any] = on_all(group, work if first else _nothing)
    value: T = results[0]
    return value


def _nothing() -> None:
    return None


def _reason(error: BaseException) -> str:
    """One line, from the innermost cause that says something."""
    if isinstance(error, CheckpointException):
        inner = [wrapped[0] for wrapped in error.failures.values()]
        return "; ".join(dict.fromkeys(map(_reason, inner)))
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return error.strerror + name
    if isinstance(error, CheckpointError):
        return str(error)
    return f"{type(error).__name__}: {error}"
