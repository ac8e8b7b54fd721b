"""Where a rank stands: written by the thread that works, read by the one that watches."""

from typing import NamedTuple

from longpipe.ir import Op


class Wait(NamedTuple):
    """What a rank waits for, in words, and the rank that it must come from (None: several)."""

    what: str
    rank: int | None


class Progress:
    """A rank's place in its step. Plain attributes: writing one costs no lock and no call.

    `position` indexes `row`, the rank's ops, while `step_runs`; outside, `activity` says what the
    rank does. `waiting` is None while it works. `stop` is a reason to stop that came from another
    rank; the executor raises it before its next op.
    """

    __slots__ = ("activity", "position", "row", "step", "step_runs", "stop", "waiting")

    def __init__(self) -> None:
        self.row: tuple[Op, ...] = ()
        self.step = -1
        self.position = 0
        self.step_runs = False
        self.waiting: Wait | None = None
        self.activity = "starting"
        self.stop: str | None = None

    def place(self) -> str:
        """The place in words: `step 3, op 12 (0F1.2)`, or the activity outside a step."""
        if not self.step_runs or not self.row:
            return self.activity
        return f"step {self.step}, op {self.position} ({self.row[self.position]})"
