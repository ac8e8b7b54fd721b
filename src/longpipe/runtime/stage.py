"""Forward and backward of one stage, segment by segment."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from longpipe.errors import RunError
from longpipe.ir import Program, Segment

Unit = tuple[int, int]  # (mb, seg)


class WeightQueue(Protocol):
    """Weight-gradient products that a split backward puts off."""

    @property
    def pending(self) -> int:
        """Number of keys with products not yet run."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes that those products keep alive."""
        ...

    def defer(self, key: Unit) -> AbstractContextManager[object]:
        """Inside, linear layers queue their weight-gradient products under `key`."""
        ...

    def run(self, key: Unit) -> None:
        """Add the products of `key` to the weights' gradients and drop them."""
        ...


class StageModule(Protocol):
    """What a stage's module provides; `longpipe.model` has one, tests have toys."""

    @property
    def weight_queue(self) -> WeightQueue: ...

    def open(self, batch: Any) -> Any:
        """Fresh state (keys and values of earlier segments) for one micro-batch."""
        ...

    def __call__(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """Run one segment: x [B, n, H], or None on the first stage, which reads the batch.

        Returns [B, n, H]; on the last stage the sum of the segment's token losses (a scalar).
        """
        ...

    def light(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """As the call, without a graph: `again` comes before the segment's backward."""
        ...

    def again(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """Run a segment that has run `light` once more, with its graph; its value is not read."""
        ...

    def close(self, state: Any) -> None:
        """Free the state, after the backward of segment 0."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...


class Stage:
    """Runs F, B, I, W and R of one stage and holds what lies between them.

    Of a forward it keeps the input and the edge into autograd's graph, not the output: whoever
    sends the output decides how long it lives. Of a light one it keeps the input alone, until R
    makes the graph. Everything must be used up at the end of a step.
    """

    __slots__ = (
        "_batches", "_deferred", "_index", "_inputs", "_last", "_loss_sum", "_module", "_saved",
        "_scale", "_seed", "_segments", "_states",
    )  # fmt: skip

    def __init__(
        self,
        module: StageModule,
        index: int,
        stages: int,
        segments: Sequence[Sequence[Segment]],
    ) -> None:
        self._module = module
        self._index = index
        self._last = index + 1 == stages
        self._segments = segments
        self._saved: dict[Unit, tuple[GradientEdge | None, torch.Tensor | None]] = {}
        self._inputs: dict[Unit, torch.Tensor | None] = {}  # of light forwards
        self._states: dict[int, Any] = {}
        self._deferred: set[Unit] = set()
        self.start((), 1.0)

    def start(self, batches: Sequence[Any], scale: float) -> None:
        """Begin a step over one batch per micro-batch; `scale` multiplies the loss sum."""
        self._batches = batches
        self._scale = scale
        self._seed: torch.Tensor | None = None
        self._loss_sum: torch.Tensor | None = None
        self._saved.clear()
        self._inputs.clear()
        self._states.clear()
        self._deferred.clear()

    def forward(self, mb: int, seg: int, x: torch.Tensor | None) -> torch.Tensor | None:
        """F: the stage's output [B, n, H] without graph; None on the last stage."""
        if x is not None:
            x.requires_grad_()
        y = self._module(x, self._state(mb, seg), self._segments[mb][seg])
        self._saved[mb, seg] = (_edge(y), x)
        return self._handed_on(y.detach())

    def light_forward(self, mb: int, seg: int, x: torch.Tensor | None) -> torch.Tensor | None:
        """F of a unit that has an R: as `forward`, but keeps its input alone."""
        y = self._module.light(x, self._state(mb, seg), self._segments[mb][seg])
        self._inputs[mb, seg] = x
        return self._handed_on(y)

    def recompute(self, mb: int, seg: int, _: torch.Tensor | None) -> None:
        """R: make again what the unit's light forward did not keep."""
        if (mb, seg) not in self._inputs:
            raise RunError(
                f"stage {self._index}: R of segment {seg} of micro-batch {mb} without a forward "
                "before it, or for the second time; validate the program before a run"
            )
        x = self._inputs.pop((mb, seg))
        if x is not None:
            x.requires_grad_()
        y = self._module.again(x, self._states[mb], self._segments[mb][seg])
        self._saved[mb, seg] = (_edge(y), x)

    def _state(self, mb: int, seg: int) -> Any:
        if seg == 0:
            self._states[mb] = self._module.open(self._batches[mb])
        return self._states[mb]

    def _handed_on(self, y: torch.Tensor) -> torch.Tensor | None:
        """What F returns; the last stage adds up its losses instead."""
        if not self._last:
            return y
        if self._seed is None:
            self._seed = torch.full_like(y, self._scale)
        self._loss_sum = y if self._loss_sum is None else self._loss_sum + y
        return None

    def backward(self, mb: int, seg: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """B: add the weights' gradients; return that of the input (None on the first stage)."""
        if (mb, seg) not in self._saved:
            raise RunError(
                f"stage {self._index}: backward of segment {seg} of micro-batch {mb} without a "
                "forward before it, or for the second time; validate the program before a run"
            )
        edge, x = self._saved.pop((mb, seg))
        if edge is not None:
            torch.autograd.backward((edge,), (self._seed if gradient is None else gradient,))
        if seg == 0:
            self._module.close(self._states.pop(mb))
        if x is None:
            return None
        found, x.grad = x.grad, None
        return found

    def input_backward(
        self, mb: int, seg: int, gradient: torch.Tensor | None
    ) -> torch.Tensor | None:
        """I: as `backward`, but the linear layers queue their weight gradients for `W`."""
        with self._module.weight_queue.defer((mb, seg)):
            found = self.backward(mb, seg, gradient)
        self._deferred.add((mb, seg))
        return found

    def weight_backward(self, mb: int, seg: int, _: torch.Tensor | None) -> None:
        """W: run the weight-gradient products that this unit's I has queued."""
        if (mb, seg) not in self._deferred:
            raise RunError(
                f"stage {self._index}: W of segment {seg} of micro-batch {mb} without an I before "
                "it, or for the second time; validate the program before a run"
            )
        self._deferred.remove((mb, seg))
        with torch.no_grad():  # as within a backward: gradients get no history
            self._module.weight_queue.run((mb, seg))

    def finish(self) -> torch.Tensor | None:
        """The step's loss sum on the last stage; RunError if anything of the step is left over."""
        left = {
            "forwards without a backward": sorted(self._saved),
            "forwards without their R": sorted(self._inputs),
            "I without its W": sorted(self._deferred),
            "micro-batches not closed": sorted(self._states),
        }
        if any(left.values()) or self._module.weight_queue.pending:
            named = "; ".join(f"{what}: {units}" for what, units in left.items() if units)
            raise RunError(
                f"stage {self._index} ended its step with work left, as (mb, seg): "
                f"{named or 'weight gradients in the queue'}. Its gradients are incomplete: "
                "validate the program before a run"
            )
        self._batches = ()
        return self._loss_sum


def _edge(y: torch.Tensor) -> GradientEdge | None:
    """Where the backward of a forward's output begins; None: a first stage with frozen weights."""
    return get_gradient_edge(y) if y.requires_grad else None


def check_stages(program: Program, rank: int, stages: Mapping[int, StageModule]) -> None:
    """Raise RunError where `stages` are not those that the program places on `rank`."""
    want = program.placement.stages_of(rank)
    if sorted(stages) != list(want):
        raise RunError(
            f"rank {rank} holds stages {list(want)} of {program.name}, "
            f"got modules for stages {sorted(stages)}"
        )
