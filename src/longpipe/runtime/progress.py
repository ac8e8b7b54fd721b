"""Where a rank stands: written by the thread that works, read by the one that watches."""

from longpipe.ir import Op


class Progress:
    """A rank's place in its step. Plain attributes: writing one costs no lock and no call.

    `position` indexes `row`, the rank's ops. `waiting` is the RECV whose message the rank waits
    for, or a text for another wait ("sends to arrive"), or None while it works. `stop` is a
    reason to stop that another rank gave; the executor raises it before its next op.
    """

    __slots__ = ("activity", "position", "row", "step", "stop", "waiting")

    def __init__(self) -> None:
        self.row: tuple[Op, ...] = ()
        self.step = -1
        self.position = 0
        self.waiting: Op | str | None = None
        self.activity = "starting"
        self.stop: str | None = None
