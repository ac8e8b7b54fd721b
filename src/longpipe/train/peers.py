"""What ranks do together outside the pipeline's steps, so that a failure of one names its cause."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from longpipe.errors import LongpipeError, RunError
from longpipe.runtime.launch import World
from longpipe.runtime.progress import Wait
from longpipe.train.together import on_all, on_first

T = TypeVar("T")


class Peers:
    """The ranks of a run, seen from one of them."""

    def __init__(self, world: World) -> None:
        self.rank, self.ranks = world.rank, world.ranks
        self.group = dist.group.WORLD
        self._watchdog = world.watchdog

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Inside, this rank does `what`, perhaps for long; a broken connection gets its reason."""
        progress = self._watchdog.progress
        progress.activity = what
        try:
            yield
        except LongpipeError:
            raise
        except (RuntimeError, OSError) as error:
            progress.waiting = progress.waiting or Wait(what, None)
            place = f"rank {self.rank}, {progress.place()}: {error}"
            raise RunError(self._watchdog.blame(place)) from error
        finally:
            progress.activity = "between steps"

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """As `busy`, for what takes no time once all ranks are there: the watchdog counts it."""
        progress = self._watchdog.progress
        progress.waiting = Wait(what, None)
        try:
            with self.busy(what):
                yield
        finally:
            progress.waiting = None

    def share(self, values: Sequence[float], what: str) -> list[tuple[float, ...]]:
        """The numbers of all ranks, in rank order; every rank gives as many."""
        mine = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(mine) for _ in range(self.ranks)]
        with self.waiting(what):
            dist.all_gather(parts, mine, group=self.group)
        return [tuple(part.tolist()) for part in parts]

    def gather(self, value: T, what: str) -> list[T]:
        """The values of all ranks, in rank order."""
        return self.on_all(lambda: value, what)

    def on_all(self, work: Callable[[], T], what: str) -> list[T]:
        """Do `work` on every rank; all get the results, or all raise if one has failed."""
        with self.busy(what):
            return on_all(self.group, work)

    def on_first(self, work: Callable[[], T], what: str) -> T:
        """Do `work` on the first rank; all get its result, or all raise if it has failed."""
        with self.busy(what):
            return on_first(self.group, work)
