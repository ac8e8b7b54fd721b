"""Ctrl-C asks a run to stop after the step that it is in, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType

_SAME_S = 3.0  # a terminal and a launcher both pass the same Ctrl-C on


class Interrupt:
    """Whether the user has asked to stop; asking once more, later, stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._asked_s = 0.0

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT."""
        now_s = monotonic()
        if self.asked and now_s - self._asked_s > _SAME_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_s = True, now_s


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Inside, SIGINT sets `asked`; threads other than the main one cannot listen to signals."""
    interrupt = Interrupt()
    if current_thread() is not main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt.ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
