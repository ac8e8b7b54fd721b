"""Stages whose weights live in shards, over copies of the pipeline (data parallelism, ZeRO-3).

UNSHARD starts an all-gather, which the stage's next op waits for; RESHARD frees the whole weights;
REDUCE_GRAD starts a reduce-scatter of the gradients, which the next one waits for. When they run
is the Program's affair (see `longpipe.passes.add_sharding`).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from longpipe.errors import PlanError, RunError
from longpipe.ir import SHARDING, Kind, Op, Segment
from longpipe.runtime.progress import Progress, Wait
from longpipe.runtime.recorder import Recorder
from longpipe.runtime.stage import StageModule, WeightQueue
from longpipe.runtime.transport import Handle


@runtime_checkable
class ShardedModule(StageModule, Protocol):
    """A stage module that gathers, frees and reduces when told to; each handle is waited for."""

    def unshard(self) -> Handle:
        """Start to gather the whole weights; there once the handle's wait returns."""
        ...

    def reshard(self) -> None:
        """Free the whole weights."""
        ...

    def reduce_grad(self) -> Handle:
        """Take the gradients and start to add them up; in the shards once the wait returns."""
        ...


class ShardedStage:
    """A stage module over one flat tensor of weights, of which each copy keeps its part.

    `parameters()` is the shard alone, with its gradient: an optimizer that works element by element
    steps on it as on any other. The copies must have been given equal weights, and no parameter
    may be shared with another stage. Gradients are summed over the copies, so that the scale of the
    loss must count the tokens of all. What the module copies into another compute type stays whole.

    `group` holds one process for each copy. Raises PlanError where parameters differ in type, where
    one is frozen (a decay of the shard would move it), or where there are none.
    """

    def __init__(self, module: StageModule, group: dist.ProcessGroup | None = None) -> None:
        self.module = module
        self._group = group
        self._parameters = tuple(module.parameters())
        if not self._parameters or not all(p.requires_grad for p in self._parameters):
            raise PlanError(
                "a sharded stage needs parameters, and all of them trained: keep this stage whole"
            )
        first = self._parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in self._parameters):
            raise PlanError("the parameters of a sharded stage must have one type and one device")
        copies, own = dist.get_world_size(group), dist.get_rank(group)
        self._part = -(-sum(p.numel() for p in self._parameters) // copies)
        self._flat = first.detach().new_zeros(copies * self._part)
        for parameter, view in zip(self._parameters, self._views(self._flat), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view  # from now on the storage comes and goes below it
        self._bytes = self._flat.untyped_storage().nbytes()
        self.shard = torch.nn.Parameter(self._flat.chunk(copies)[own].clone())
        self.reshard()

    def _views(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each parameter's place in a flat tensor, in its shape."""
        start = 0
        for parameter in self._parameters:
            yield flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def unshard(self) -> Handle:
        """See `ShardedModule`."""
        self._flat.untyped_storage().resize_(self._bytes)
        return _Gather(_all_gather(self._flat, self.shard.detach(), self._group), self.module)

    def reshard(self) -> None:
        """See `ShardedModule`."""
        self._flat.untyped_storage().resize_(0)

    def reduce_grad(self) -> Handle:
        """See `ShardedModule`."""
        whole = self.shard.detach().new_zeros(self._flat.shape)
        for parameter, view in zip(self._parameters, self._views(whole), strict=True):
            if parameter.grad is not None:
                view.copy_(parameter.grad)
                parameter.grad = None
        part = torch.empty_like(self.shard)
        return _Reduction(_reduce_scatter(part, whole, self._group), part, self.shard)

    @property
    def weight_queue(self) -> WeightQueue:
        """The module's."""
        return self.module.weight_queue

    def open(self, batch: Any) -> Any:
        """As the module."""
        return self.module.open(batch)

    def __call__(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """As the module."""
        return self.module(x, state, segment)

    def light(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """As the module."""
        return self.module.light(x, state, segment)

    def again(self, x: torch.Tensor | None, state: Any, segment: Segment) -> torch.Tensor:
        """As the module."""
        return self.module.again(x, state, segment)

    def close(self, state: Any) -> None:
        """As the module."""
        self.module.close(state)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The shard."""
        yield self.shard

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The shard."""
        yield "shard", self.shard


class _Gather:
    """An all-gather under way."""

    def __init__(self, work: dist.Work, module: StageModule) -> None:
        self._work = work
        self._module = module

    def wait(self) -> None:
        """Block until the weights are whole, and copied to the compute type where there is one."""
        self._work.wait()
        if refresh := getattr(self._module, "refresh_compute_weights", None):
            refresh()


class _Reduction:
    """A reduce-scatter under way."""

    def __init__(self, work: dist.Work, part: torch.Tensor, shard: torch.nn.Parameter) -> None:
        self._work = work
        self._part = part
        self._shard = shard

    def wait(self) -> None:
        """Block until this copy's part is there, and add it to the shard's gradient."""
        self._work.wait()
        if self._shard.grad is None:
            self._shard.grad = self._part
        else:
            self._shard.grad += self._part


class Shards:
    """The sharding ops of one rank's row, for its executor.

    Raises RunError where a stage is sharded but the row does not gather it, or the reverse.
    """

    def __init__(
        self,
        row: tuple[Op, ...],
        stages: Mapping[int, StageModule],
        recorder: Recorder,
        progress: Progress,
    ) -> None:
        sharded = {stage: m for stage, m in stages.items() if isinstance(m, ShardedModule)}
        _check({op.stage for op in row if op.kind in SHARDING}, set(sharded))
        self._modules = sharded
        self._recorder = recorder
        self._progress = progress
        self._whole: set[int] = set()  # gathered, or being gathered
        self._gathers: dict[int, tuple[int, Handle]] = {}  # by stage: number of the op, and handle
        self._reduction: tuple[int, int, Handle] | None = None  # stage, number of the op, handle

    def run(self, step: tuple[Op, int]) -> None:
        """Start an op; the other number is its place among the ops that are timed."""
        op, number = step
        module = self._modules[op.stage]
        if op.kind is Kind.REDUCE_GRAD:
            self._settle()
        self._recorder.begin(number)
        if op.kind is Kind.UNSHARD:
            self._gathers[op.stage] = number, module.unshard()
            self._whole.add(op.stage)
        elif op.kind is Kind.REDUCE_GRAD:
            self._reduction = op.stage, number, module.reduce_grad()
        else:
            self._arrive(op.stage)  # or the gather would write to freed memory
            self._whole.remove(op.stage)
            module.reshard()
            self._recorder.end(number)

    def before(self, stage: int) -> Callable[[], None] | None:
        """What an op of the stage must call first; None: the stage is not sharded."""
        return partial(self._arrive, stage) if stage in self._modules else None

    def finish(self) -> None:
        """Wait until the gradients of the step are in the shards."""
        self._settle()
        if self._whole:
            raise RunError(
                f"stages {sorted(self._whole)} are still whole at the end of the step: "
                "validate the program before a run"
            )

    def _arrive(self, stage: int) -> None:
        if stage not in self._whole:
            raise RunError(
                f"the weights of stage {stage} are not gathered: validate the program before a run"
            )
        if stage in self._gathers:
            number, handle = self._gathers.pop(stage)
            self._wait(f"the weights of stage {stage} from its copies", number, handle)

    def _settle(self) -> None:
        if self._reduction is not None:
            stage, number, handle = self._reduction
            self._reduction = None
            self._wait(f"the gradients of stage {stage} from its copies", number, handle)

    def _wait(self, what: str, number: int, handle: Handle) -> None:
        self._progress.waiting = Wait(what, None)
        handle.wait()
        self._progress.waiting = None
        self._recorder.end(number)


def _check(ordered: set[int], sharded: set[int]) -> None:
    if missing := sorted(ordered - sharded):
        raise RunError(
            f"the program gathers and reduces stages {missing}, but their modules are not sharded: "
            "wrap them in runtime.ShardedStage, or run the program without add_sharding"
        )
    if missing := sorted(sharded - ordered):
        raise RunError(
            f"stages {missing} are sharded, but the program never gathers them: "
            "use passes.add_sharding"
        )


def _all_gather(
    whole: torch.Tensor, part: torch.Tensor, group: dist.ProcessGroup | None
) -> dist.Work:
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its old name
    work: dist.Work = gather(whole, part, group=group, async_op=True)
    return work


def _reduce_scatter(
    part: torch.Tensor, whole: torch.Tensor, group: dist.ProcessGroup | None
) -> dist.Work:
    reduce = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    work: dist.Work = reduce(part, whole, group=group, async_op=True)
    return work
