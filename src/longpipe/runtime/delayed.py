"""A transport that hands messages on late: a slow network, rehearsed on a fast one."""

from queue import Queue
from threading import Thread
from time import perf_counter, sleep

import torch

from longpipe.errors import RunError
from longpipe.runtime.transport import Direction, Handle, Transport

Item = tuple[float, torch.Tensor]  # when it is due, and the message


class DelayedTransport:
    """Holds each message for `delay_s` before `inner` sends it; sending does not block the sender.

    `delay_s` may be set at any time, for the messages from then on. It is a latency: any number of
    messages may be held at once, and a message never overtakes another of its channel. The host's
    clock decides, so it is for transports of CPU tensors.
    """

    def __init__(self, inner: Transport, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._inner = inner
        self._lines: dict[tuple[int, Direction], _Line] = {}

    def post_receive(self, source: int, direction: Direction, buffer: torch.Tensor) -> Handle:
        """See `Transport`."""
        return self._inner.post_receive(source, direction, buffer)

    def send(self, destination: int, direction: Direction, tensor: torch.Tensor) -> None:
        """See `Transport`."""
        line = self._lines.get((destination, direction))
        if line is None:
            line = self._lines[destination, direction] = _Line(self._inner, destination, direction)
        line.check()
        line.queue.put((perf_counter() + self.delay_s, tensor))

    def drain(self) -> None:
        """See `Transport`."""
        for line in self._lines.values():
            line.queue.join()
            line.check()
        self._inner.drain()

    def close(self) -> None:
        """See `Transport`."""
        for line in self._lines.values():
            line.queue.put(None)
        for line in self._lines.values():
            line.thread.join()
        self._lines.clear()
        self._inner.close()


class _Line:
    """The messages of one channel that are held, and the thread that hands them on."""

    def __init__(self, inner: Transport, destination: int, direction: Direction) -> None:
        self.queue: Queue[Item | None] = Queue()
        self._error: Exception | None = None
        self._to = inner, destination, direction
        name = f"longpipe delays {direction} to rank {destination}"
        self.thread = Thread(target=self._hand_on_each, name=name, daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raise what went wrong with an earlier message."""
        _, destination, direction = self._to
        if self._error is not None:
            raise RunError(
                f"a {direction} message to rank {destination} could not be sent: {self._error}"
            ) from self._error

    def _hand_on_each(self) -> None:
        inner, destination, direction = self._to
        while (item := self.queue.get()) is not None:
            due_s, tensor = item
            sleep(max(0.0, due_s - perf_counter()))
            try:
                inner.send(destination, direction, tensor)
            except Exception as error:
                self._error = self._error or error
            del item, tensor  # else this loop holds the message until the next one
            self.queue.task_done()
