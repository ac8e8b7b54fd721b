"""A stage whose ops take given times: a tiny tensor operation, then sleep until the time is up."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from benchmarks.toy import Queue, Tiny
from longpipe.ir import Kind

Slot = tuple[Kind, int, int]  # kind, stage, segment


class _Mark(torch.autograd.Function):
    """The identity; says when the gradient comes, at the start of the stage's backward."""

    @staticmethod
    def forward(ctx, y, note):
        ctx.note = note
        return y.view_as(y)

    @staticmethod
    def backward(ctx, dy):
        ctx.note()
        return dy, None


class _SleepyQueue:
    """A weight queue with which B, I and W sleep for the rest of their times."""

    def __init__(self, queue: Queue, rest: Callable[[Kind, float, int], None]) -> None:
        self._queue, self._rest = queue, rest
        self.defer = queue.defer
        self.pending_bytes = 0
        self.began: tuple[float, int] = (0.0, 0)  # B or I under way: since when, its segment

    @property
    def pending(self) -> int:
        return self._queue.pending

    def take(self, *item: torch.Tensor) -> None:
        kind = Kind.I if self._queue.deferring else Kind.B
        self._queue.take(*item)
        self._rest(kind, *self.began)

    def run(self, key: tuple[int, int]) -> None:
        begin_s = time.perf_counter()
        self._queue.run(key)
        self._rest(Kind.W, begin_s, key[1])


class Sleepy(nn.Module):
    """A tiny stage, each op of which takes the time that the costs say."""

    def __init__(self, stage: int, stages: int, seconds: Mapping[Slot, float]) -> None:
        super().__init__()
        self._tiny = Tiny(stage, stages)
        self.weight_queue = _SleepyQueue(self._tiny.weight_queue, self._rest)
        self._tiny.weight_queue = self.weight_queue
        self._stage, self._seconds = stage, seconds
        self.open, self.close = self._tiny.open, self._tiny.close

    def forward(self, x, state, segment):
        return self._run(Kind.F, x, state, segment)

    def _run(self, kind: Kind, x, state, segment):
        begin_s, seg = time.perf_counter(), segment.index

        def note() -> None:
            self.weight_queue.began = (time.perf_counter(), seg)

        y = _Mark.apply(self._tiny(x, state, segment), note)
        self._rest(kind, begin_s, seg)
        return y

    def light(self, x, state, segment):
        begin_s = time.perf_counter()
        with torch.no_grad():
            y = self._tiny(x, state, segment)
        self._rest(Kind.F, begin_s, segment.index)
        return y

    def again(self, x, state, segment):
        return self._run(Kind.R, x, state, segment)

    def _rest(self, kind: Kind, begin_s: float, seg: int) -> None:
        """Sleep until an op that began at `begin_s` has taken its time."""
        left_s = begin_s + self._seconds[kind, self._stage, seg] - time.perf_counter()
        time.sleep(max(left_s, 0.0))
