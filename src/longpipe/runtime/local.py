"""A transport inside one process: a thread per rank, for tests and single-process runs."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TypeVar

import torch

from longpipe.errors import RunError
from longpipe.runtime.transport import Direction

T = TypeVar("T")


@dataclass(slots=True)
class _Channel:
    """Tensors sent and buffers posted, both first in, first out."""

    sent: deque[tuple[torch.Tensor, "_Transfer"]] = field(default_factory=deque)
    posted: deque[tuple[torch.Tensor, "_Transfer"]] = field(default_factory=deque)


class _Transfer:
    """One side's view of one message; `done` once the data lie in the receiver's buffer."""

    __slots__ = ("_fabric", "_name", "done")

    def __init__(self, fabric: "LocalFabric", name: str) -> None:
        self._fabric = fabric
        self._name = name
        self.done = False

    def wait(self) -> None:
        """Block until done; RunError when the fabric stops or nothing comes in time."""
        self._fabric.wait_for(self)

    def __str__(self) -> str:
        return self._name


class LocalFabric:
    """Connects the ranks of one process.

    With `rendezvous`, a send blocks until its receive has been posted, the strictest meaning
    that a real transport may give it. `timeout_s` bounds every wait.
    """

    def __init__(self, ranks: int, *, rendezvous: bool = False, timeout_s: float = 60.0) -> None:
        self.ranks = ranks
        self.rendezvous = rendezvous
        self._timeout_s = timeout_s
        self._changed = Condition()
        self._channels: dict[tuple[int, int, Direction], _Channel] = {}
        self._stopped: str | None = None

    def transport(self, rank: int) -> "LocalTransport":
        """The end of one rank."""
        return LocalTransport(self, rank)

    def stop(self, reason: str) -> None:
        """Wake every rank that waits, with a RunError that gives the reason."""
        with self._changed:
            self._stopped = self._stopped or reason
            self._changed.notify_all()

    def put(
        self, channel: tuple[int, int, Direction], tensor: torch.Tensor, *, receive: bool
    ) -> _Transfer:
        """Add one side of a message, and move the data if the other side is there."""
        source, destination, direction = channel
        name = f"a {direction} message from rank {source} to rank {destination}"
        transfer = _Transfer(self, name)
        with self._changed:
            ends = self._channels.setdefault(channel, _Channel())
            (ends.posted if receive else ends.sent).append((tensor, transfer))
            while ends.posted and ends.sent:
                data, sent = ends.sent.popleft()
                buffer, posted = ends.posted.popleft()
                if data.shape != buffer.shape or data.dtype != buffer.dtype:
                    raise RunError(
                        f"{name} has shape {tuple(data.shape)} {data.dtype}, its receiver "
                        f"expects {tuple(buffer.shape)} {buffer.dtype}"
                    )
                buffer.copy_(data)
                sent.done = posted.done = True
            self._changed.notify_all()
        return transfer

    def wait_for(self, transfer: _Transfer) -> None:
        """Block until `transfer` is done."""
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: transfer.done or self._stopped is not None, self._timeout_s
            )
            if transfer.done:
                return
            raise RunError(
                self._stopped
                if arrived and self._stopped
                else f"{transfer} did not get through in {self._timeout_s:g} s"
            )


class LocalTransport:
    """One rank's end of a LocalFabric."""

    def __init__(self, fabric: LocalFabric, rank: int) -> None:
        self._fabric = fabric
        self._rank = rank
        self._sent: deque[_Transfer] = deque()

    def post_receive(self, source: int, direction: Direction, buffer: torch.Tensor) -> _Transfer:
        """See `Transport`."""
        return self._fabric.put((source, self._rank, direction), buffer, receive=True)

    def send(self, destination: int, direction: Direction, tensor: torch.Tensor) -> None:
        """See `Transport`; under rendezvous it blocks until the receive has been posted."""
        transfer = self._fabric.put((self._rank, destination, direction), tensor, receive=False)
        if self._fabric.rendezvous:
            transfer.wait()
        else:
            self._sent.append(transfer)

    def drain(self) -> None:
        """See `Transport`."""
        while self._sent:
            self._sent.popleft().wait()

    def close(self) -> None:
        """Nothing is held open."""


def run_ranks(fabric: LocalFabric, work: Callable[[int], T]) -> list[T]:
    """Run `work(rank)` in a thread for each rank; return the results in order of rank.

    The first failure stops the fabric, so that no rank waits for ever, and is raised.
    """
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def body(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:
            failures.append(error)
            fabric.stop(f"rank {rank} failed: {error}")

    threads = [Thread(target=body, args=(rank,), daemon=True) for rank in range(fabric.ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[rank] for rank in range(fabric.ranks)]
