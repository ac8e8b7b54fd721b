"""What a run tells people: one rank speaks, and says at once what it is busy with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TextIO

from rich.console import Console

_WORTH_A_LINE_S = 2.0


def write_line(stream: TextIO, text: str) -> None:
    """Write and flush; a run whose reader has gone (`| head`) goes on without one."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # also for what is buffered still
        os.close(nowhere)


class Narrator:
    """Lines of text; None as stream is silence, for all ranks but the first.

    On a terminal a phase shows a spinner while it runs. In a log it is a line when it starts and,
    where it took long, another one when it ends.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """One or more lines, at once."""
        if self.stream is not None:
            write_line(self.stream, text)

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Something that may take long."""
        if self.stream is None:
            yield
            return
        started_s = perf_counter()
        if self.stream.isatty():
            with Console(file=self.stream).status(f"{title} ..."):
                yield
        else:
            self.say(f"{title} ...")
            yield
        taken_s = perf_counter() - started_s
        if taken_s > _WORTH_A_LINE_S:
            self.say(f"{title}: {taken_s:.1f} s")
