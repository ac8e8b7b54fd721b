"""What a run tells people: one rank speaks, and says at once what it is busy with."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TextIO

from rich.console import Console

_WORTH_A_LINE_S = 2.0


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
            self.stream.write(text + "\n")
            self.stream.flush()

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
