"""A small causal model in stages, with all that makes segments and split backwards hard.

Each layer adds a running sum over the sequence, so that a segment reads what earlier ones left
(as keys and values do) and its backward what later ones left (dKV). Weight gradients can be put
off, and the embedding is tied to the head. `reference` runs the same mathematics unsplit, by plain
autograd. Shapes: B batch, n tokens of a segment, S tokens, H hidden, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from longpipe.errors import RunError
from longpipe.ir import Segment

VOCABULARY = 11
HIDDEN = 6


@dataclass(frozen=True)
class Tokens:
    """One micro-batch: tokens [B, S] and labels [B, S] with -100 where none."""

    tokens: torch.Tensor
    labels: torch.Tensor


class Queue:
    """Weight-gradient products by key."""

    def __init__(self) -> None:
        self._items: dict[object, list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]] = {}
        self._key: object = None

    @property
    def pending(self) -> int:
        return len(self._items)

    @property
    def pending_bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for items in self._items.values() for _, a, b in items)

    @contextmanager
    def defer(self, key: object) -> Iterator[None]:
        self._key = key
        self._items[key] = []
        try:
            yield
        finally:
            self._key = None

    def add(self, weight: nn.Parameter, x: torch.Tensor, dy: torch.Tensor) -> None:
        if self._key is None:
            self._accumulate(weight, x, dy)
        else:
            self._items[self._key].append((weight, x, dy))

    def run(self, key: object) -> None:
        for item in self._items.pop(key):
            self._accumulate(*item)

    @staticmethod
    def _accumulate(weight: nn.Parameter, x: torch.Tensor, dy: torch.Tensor) -> None:
        product = dy.flatten(0, 1).T @ x.flatten(0, 1)
        if weight.grad is None:
            weight.grad = product
        else:
            weight.grad += product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, queue):
        ctx.save_for_backward(x)
        ctx.weight, ctx.queue = weight, queue
        return x @ weight.T

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        ctx.queue.add(ctx.weight, x, dy)
        return dy @ ctx.weight, None, None


class RunningSum:
    """What earlier segments leave for later ones, and the gradient that flows back."""

    def __init__(self) -> None:
        self.pasts: list[torch.Tensor] = []  # [B, 1, H] after each segment
        self.d_past: torch.Tensor | None = None
        self.forwards = 0  # segments run forward and not yet backward


class _Cumulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, k, state, segment, again):
        if state.forwards != segment.index and not again:
            raise RunError(f"forward of segment {segment.index} after {state.forwards} segments")
        ctx.state, ctx.segment = state, segment
        total = k.cumsum(1) + state.pasts[segment.index - 1] if segment.index else k.cumsum(1)
        if not again:
            state.forwards += 1
            # a view would tie the graph to its own state
            state.pasts.append(total[:, -1:].clone())
        return total

    @staticmethod
    def backward(ctx, grad):
        state = ctx.state
        if state.forwards != ctx.segment.index + 1:
            raise RunError(f"backward of segment {ctx.segment.index}: {state.forwards} are open")
        state.forwards -= 1
        d_k = grad.flip(1).cumsum(1).flip(1)
        if state.d_past is not None:
            d_k = d_k + state.d_past
        state.d_past = d_k[:, :1].clone()
        return d_k, None, None, None


@dataclass
class State:
    batch: Tokens
    sums: list[RunningSum]


class ToyStage(nn.Module):
    """Some layers of the toy; the first stage embeds, the last one takes the loss."""

    def __init__(self, stage: int, stages: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight_queue = Queue()
        self.first, self.last = stage == 0, stage + 1 == stages
        draw = torch.Generator().manual_seed(stage)
        shared = torch.Generator().manual_seed(999)

        def matrix(rows: int, seeded: torch.Generator) -> nn.Parameter:
            values = torch.randn(rows, HIDDEN, generator=seeded, dtype=torch.float64)
            return nn.Parameter((values * 0.4).to(dtype))

        if self.first or self.last:
            self.register_parameter("embed", matrix(VOCABULARY, shared))
        self.register_parameter(f"up{stage}", matrix(HIDDEN, draw))
        self.register_parameter(f"key{stage}", matrix(HIDDEN, draw))
        self.up, self.key = getattr(self, f"up{stage}"), getattr(self, f"key{stage}")

    def open(self, batch: Tokens) -> State:
        return State(batch, [RunningSum()])

    def close(self, state: State) -> None:
        if state.sums[0].forwards:
            raise RunError("closed before the backward of every segment")
        state.sums.clear()

    def light(self, x, state: State, segment: Segment) -> torch.Tensor:
        with torch.no_grad():
            return self(x, state, segment)

    def again(self, x, state: State, segment: Segment) -> torch.Tensor:
        return self(x, state, segment, again=True)

    def forward(self, x, state: State, segment: Segment, again: bool = False) -> torch.Tensor:
        tokens = slice(segment.start, segment.stop)
        if self.first:
            x = functional.embedding(state.batch.tokens[:, tokens], self.embed)
        key = _Linear.apply(x, self.key, self.weight_queue)
        sums = _Cumulate.apply(key, state.sums[0], segment, again)
        y = x + torch.tanh(_Linear.apply(x, self.up, self.weight_queue) + 0.1 * sums)
        if not self.last:
            return y
        return self.loss(_Linear.apply(y, self.embed, self.weight_queue), state.batch, tokens)

    def loss(self, logits: torch.Tensor, batch: Tokens, tokens: slice) -> torch.Tensor:
        labels = batch.labels[:, tokens].flatten()
        return functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")

    def plain(self, x: torch.Tensor | None, batch: Tokens) -> torch.Tensor:
        """The stage on a whole micro-batch, by plain autograd."""
        if x is None:
            x = functional.embedding(batch.tokens, self.embed)
        y = x + torch.tanh(x @ self.up.T + 0.1 * (x @ self.key.T).cumsum(1))
        return y if not self.last else self.loss(y @ self.embed.T, batch, slice(None))


def make_batches(microbatches: int, batch: int, tokens: int) -> tuple[Tokens, ...]:
    """Random micro-batches; some labels are ignored, more in later micro-batches."""
    draw = torch.Generator().manual_seed(7)
    found = []
    for mb in range(microbatches):
        ids = torch.randint(VOCABULARY, (batch, tokens), generator=draw)
        labels = torch.randint(VOCABULARY, (batch, tokens), generator=draw)
        labels[:, : mb + 1] = -100
        found.append(Tokens(ids, labels))
    return tuple(found)


def scale_of(batches: tuple[Tokens, ...]) -> float:
    """1 / valid tokens of the step."""
    return 1.0 / sum(int((batch.labels != -100).sum()) for batch in batches)


def reference(
    stages: int, batches: tuple[Tokens, ...], dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss sum and the gradient of every parameter, unsplit; tied gradients summed."""
    modules = [ToyStage(stage, stages, dtype) for stage in range(stages)]
    total = torch.zeros((), dtype=dtype)
    for batch in batches:
        x = None
        for module in modules:
            x = module.plain(x, batch)
        total = total + x
    (total * scale_of(batches)).backward()
    return total.detach(), summed_gradients(modules)


def summed_gradients(modules) -> dict[str, torch.Tensor]:
    """Gradient by parameter name; equal names (tied weights) are summed."""
    found: dict[str, torch.Tensor] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if name in ("up", "key"):
                continue
            assert parameter.grad is not None, f"{name} has no gradient"
            found[name] = found[name] + parameter.grad if name in found else parameter.grad
    return found
