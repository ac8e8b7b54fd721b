"""The smallest stage that longpipe's runtime can run: one linear layer, its weight queue."""

from contextlib import contextmanager

import torch
from torch import nn

WIDTH, TOKENS = 8, 4


class _Split(torch.autograd.Function):
    """A linear layer whose weight gradient waits for W while the queue is open."""

    @staticmethod
    def forward(ctx, x, weight, queue):
        ctx.save_for_backward(x)
        ctx.weight, ctx.queue = weight, queue
        return x @ weight.T

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        ctx.queue.take(ctx.weight, dy, x)
        return dy @ ctx.weight, None, None


class Queue:
    """The smallest weight queue."""

    def __init__(self) -> None:
        self._items: dict[object, tuple[torch.Tensor, ...]] = {}
        self._key: object = None

    @property
    def pending(self) -> int:
        return len(self._items)

    pending_bytes = 0

    @property
    def deferring(self) -> bool:
        """Whether `defer` is open: the backward under way is an I."""
        return self._key is not None

    @contextmanager
    def defer(self, key):
        self._key = key
        yield
        self._key = None

    def take(self, *item) -> None:
        if self._key is None:
            self._add(*item)
        else:
            self._items[self._key] = item

    def run(self, key) -> None:
        self._add(*self._items.pop(key))

    @staticmethod
    def _add(weight, dy, x) -> None:
        weight.grad.addmm_(dy.flatten(0, 1).T, x.flatten(0, 1))


class Tiny(nn.Module):
    """One linear layer as a stage; the last stage sums its output for a loss.

    A batch is the input of one segment of the first stage, [1, TOKENS, WIDTH]; all segments of a
    micro-batch are alike.
    """

    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.linear.weight.grad = torch.zeros(WIDTH, WIDTH)
        self.weight_queue = Queue()
        self._first, self._last = stage == 0, stage + 1 == stages

    def open(self, batch):
        return batch

    def close(self, state):
        pass

    def forward(self, x, state, segment):
        y = _Split.apply(state if self._first else x, self.linear.weight, self.weight_queue)
        return y.sum() if self._last else y
