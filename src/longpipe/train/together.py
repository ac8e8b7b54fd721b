"""Doing what may fail on several ranks: all go on, or all raise and say which rank failed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from longpipe.errors import CheckpointError, LongpipeError

T = TypeVar("T")

# DCP reports failures of other ranks as a BaseException.
_FAILURES = (Exception, CheckpointException)


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: Any = None
    failure: type[LongpipeError] | None = None
    reason: str = ""


def on_all(group: dist.ProcessGroup | None, work: Callable[[], T]) -> list[T]:
    """Do `work` on every rank; every rank gets the results of all, in rank order.

    Raises:
        LongpipeError: on every rank, with the reasons of those that failed. The kind is that of the
            first failure; CheckpointError if that was an error of the system or of a library.
    """
    cause: BaseException | None = None
    try:
        outcome = _Outcome(work())
    except _FAILURES as error:
        cause = error
        kind = type(error) if isinstance(error, LongpipeError) else CheckpointError
        outcome = _Outcome(None, kind, _reason(error))
    outcomes = [outcome]
    if group is not None:
        outcomes = [outcome] * group.size()
        dist.all_gather_object(outcomes, outcome, group=group)
    failed = [(rank, each) for rank, each in enumerate(outcomes) if each.failure is not None]
    if failed:
        first, kind = failed[0][0], failed[0][1].failure or CheckpointError
        # DCP makes every rank raise when one fails: the same reason once is enough.
        reasons = "; ".join(dict.fromkeys(each.reason for _, each in failed))
        try:
            raise kind(reasons if group is None else f"rank {first}: {reasons}") from cause
        finally:
            # An error that its own frame holds would keep the group alive, and a gloo group that
            # is alive when Python ends aborts the process.
            del cause
    return [each.result for each in outcomes]


def on_first(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """Do `work` on the group's first rank; every rank gets its result, or its failure."""
    first = group is None or group.rank() == 0
    results: list[Any] = on_all(group, work if first else _nothing)
    value: T = results[0]
    return value


def _nothing() -> None:
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """One line, from the innermost cause that says something."""
    if isinstance(error, CheckpointException):
        inner = [wrapped[0] for wrapped in error.failures.values()]
        return "; ".join(dict.fromkeys(map(_reason, inner)))
    if isinstance(error, LongpipeError):
        return str(error)
    # torch's writer hides the system's error, such as a full disk, behind one of its own.
    system = next((each for each in _chain(error) if isinstance(each, OSError)), None)
    if system is not None and system.strerror:
        name = f" ({system.filename})" if system.filename else ""
        return system.strerror + name
    return f"{type(error).__name__}: {error}"
