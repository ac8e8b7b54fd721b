"""torch.distributed.pipelining on the same decoder.

Weight gradients are split by our linear layers through torch's own `dw_builder` hook: torch's
native split walks the autograd graph for weights, which these layers do not put there. So torch's
zero-bubble schedules run the very kernels that longpipe's run.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleSingle,
    get_schedule_class,
)

from benchmarks.workload import Workload
from longpipe.ir import Segment
from longpipe.model import DecoderStage, MicroBatch


class WholeSequence(nn.Module):
    """A stage as torch calls it: one forward over the whole sequence of a micro-batch."""

    def __init__(self, stage: DecoderStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """x: tokens [1, S] on the first stage, else [1, S, H]."""
        state = self.stage.open(MicroBatch.whole(tokens, labels))
        whole = Segment(0, 0, tokens.shape[1])
        y: torch.Tensor = self.stage(None if self.stage.first else x, state, whole)
        return y.reshape(1, 1) if self.stage.last else y


class DeferringStage(PipelineStage):
    """Queues weight gradients during each backward; torch then runs them at once, or at its W."""

    def __init__(self, module: WholeSequence, *args: object, **kwargs: object) -> None:
        self._queue = module.stage.weight_queue
        self._waiting: deque[int] = deque()
        self._count = 0
        super().__init__(module, *args, dw_builder=self._take, **kwargs)  # type: ignore[arg-type]

    def backward_maybe_with_nosync(self, *args: object, **kwargs: object) -> object:
        """The backward, with its weight gradients queued under a number of its own."""
        self._count += 1
        self._waiting.append(self._count)
        with self._queue.defer(self._count):
            return super().backward_maybe_with_nosync(*args, **kwargs)  # type: ignore[arg-type]

    def _take(self) -> Callable[[], None]:
        key = self._waiting.popleft()
        return lambda: self._queue.run(key)


class TorchMode:
    """One of torch's schedules, ready to run steps on this rank."""

    def __init__(
        self, name: str, chunks: int, placement: str, rank: int, ranks: int, work: Workload
    ):
        stages = ranks * chunks
        owned = [rank + ranks * c for c in range(chunks)]
        if placement == "v":
            owned = [rank, 2 * ranks - 1 - rank]
        self.modules = {index: work.stage(index, stages) for index in owned}
        self._work = work
        batches = work.batches()
        self._tokens = torch.cat([b.tokens for b in batches])
        self._labels = torch.cat([b.labels for b in batches])
        hidden = torch.empty(1, work.tokens, work.config.hidden)

        def pipeline_stage(index: int) -> PipelineStage:
            first, last = index == 0, index == stages - 1
            x = self._tokens[:1] if first else hidden.clone().requires_grad_()
            y = torch.empty(1, 1) if last else hidden.clone()
            return DeferringStage(
                WholeSequence(self.modules[index]), index, stages, torch.device("cpu"),
                input_args=(x,), output_args=(y.requires_grad_(),),
            )  # fmt: skip

        made = [pipeline_stage(index) for index in owned]
        kind = get_schedule_class(name)
        single = issubclass(kind, PipelineScheduleSingle)
        self._schedule = kind(
            made[0] if single else made,
            work.microbatches,
            loss_fn=lambda y, _: y.sum() * work.scale,
            scale_grads=False,
        )
        self._first, self._last = 0 in owned, stages - 1 in owned

    def step(self) -> None:
        """Forward and backward of the whole batch."""
        args = (self._tokens,) if self._first else ()
        self._schedule.step(
            *args,
            target=self._labels if self._last else None,
            tokens=self._tokens,
            labels=self._labels,
            return_outputs=False,
        )
