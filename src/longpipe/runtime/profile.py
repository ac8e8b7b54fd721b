"""What each op of a stage costs on the device at hand: seconds, and bytes held and at the peak."""

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch

from longpipe.cost import Measured, MeasuredCosts, Slot
from longpipe.ir import Kind, Program
from longpipe.runtime.boundary import Boundary
from longpipe.runtime.links import measure_links
from longpipe.runtime.memory import CudaMeter, MemoryMeter, meter_for
from longpipe.runtime.stage import Stage, StageModule
from longpipe.runtime.store import Store, exchange
from longpipe.runtime.transport import Transport

T = TypeVar("T")
Run = Callable[[int, int, torch.Tensor | None], torch.Tensor | None]

_WARM_UP = 1


@dataclass(frozen=True, slots=True)
class OpCost:
    """Median seconds of an op, bytes that stay after it (negative: that it frees), and bytes at
    its peak above those before it. The tensors that it receives count from its start, those that
    it hands on until its end. `light` is an F that keeps little, since an R comes after it.
    """

    kind: Kind
    stage: int
    seg: int
    time_s: float
    held_bytes: int
    peak_bytes: int
    light: bool = False


def profile_stage(
    module: StageModule,
    stage: int,
    stages: int,
    boundary: Boundary,
    batch: Any,
    *,
    split: bool,
    recompute: bool = False,
    repeats: int = 3,
) -> list[OpCost]:
    """Time and weigh every op of one stage over one micro-batch, with made-up boundary tensors.

    `batch` is opened as micro-batch 0, whose cuts are used. `split` measures I and W instead of
    B, `recompute` light forwards and R. The module's gradients are made if there are none, and
    are zero afterwards.
    """
    for parameter in module.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    runner = Stage(module, stage, stages, boundary.segments)
    bench = _Bench(runner, stage, stages, boundary, split, recompute)
    times: dict[tuple[Kind, int], list[float]] = {}
    for turn in range(_WARM_UP + repeats):
        found = bench.run(batch, partial(_timed, boundary.device))
        if turn >= _WARM_UP:
            for key, seconds in found.items():
                times.setdefault(key, []).append(seconds)
    with meter_for(boundary.device) as meter:
        weights = bench.run(batch, partial(_weighed, meter))
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    return [
        OpCost(
            kind,
            stage,
            seg,
            median(seconds),
            *weights[kind, seg],
            light=recompute and kind is Kind.F,
        )
        for (kind, seg), seconds in times.items()
    ]


class _Bench:
    """A stage, and the tensors that would come from its neighbours."""

    def __init__(
        self,
        runner: Stage,
        stage: int,
        stages: int,
        boundary: Boundary,
        split: bool,
        recompute: bool,
    ) -> None:
        self._runner = runner
        self._boundary = boundary
        self._split, self._recompute = split, recompute
        self._first, self._last = stage == 0, stage + 1 == stages

    def run(
        self, batch: Any, measure: Callable[[Callable[[], object]], T]
    ) -> dict[tuple[Kind, int], T]:
        """One micro-batch through the stage, each op inside `measure`."""
        self._runner.start((batch,), 1e-3)
        segments = range(len(self._boundary.segments[0]))
        found = {(Kind.F, seg): measure(partial(self._forward, seg)) for seg in segments}
        for seg in reversed(segments):
            if self._recompute:
                found[Kind.R, seg] = measure(partial(self._runner.recompute, 0, seg, None))
            if self._split:
                backward = partial(self._backward, self._runner.input_backward, seg)
                found[Kind.I, seg] = measure(backward)
                found[Kind.W, seg] = measure(partial(self._runner.weight_backward, 0, seg, None))
            else:
                backward = partial(self._backward, self._runner.backward, seg)
                found[Kind.B, seg] = measure(backward)
        self._runner.finish()
        return found

    def _forward(self, seg: int) -> object:
        x = None if self._first else self._made_up(seg)
        run = self._runner.light_forward if self._recompute else self._runner.forward
        return run(0, seg, x)

    def _backward(self, run: Run, seg: int) -> object:
        gradient = None if self._last else self._made_up(seg)
        return run(0, seg, gradient)

    def _made_up(self, seg: int) -> torch.Tensor:
        return self._boundary.empty(0, seg).fill_(0.01)  # cheap, beside the op that is timed


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of `work`, until the device has done it."""
    _finish(device)
    begin_s = perf_counter()
    work()
    _finish(device)
    return perf_counter() - begin_s


def _weighed(meter: MemoryMeter | CudaMeter, work: Callable[[], object]) -> tuple[int, int]:
    """(bytes held after `work` and its results, bytes at its peak), above those before."""
    before = meter.current_bytes
    meter.reset_peak()
    work()
    return meter.current_bytes - before, meter.peak_bytes - before


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_costs(
    program: Program,
    rank: int,
    stages: Mapping[int, StageModule],
    batch: Any,
    boundary: Boundary,
    transport: Transport,
    store: Store,
    *,
    repeats: int = 3,
) -> MeasuredCosts:
    """The cost table of a whole pipeline, on every rank; all ranks call it at the same point, once.

    They profile their stages at the same time, as they will run, then time the links. Micro-batch
    0's cuts and `batch` stand for all.
    """
    kinds = {op.kind for op in program.rows[rank]}
    redone = {op.stage for op in program.rows[rank] if op.kind is Kind.R}
    count = program.problem.stages
    mine = [
        cost
        for stage, module in stages.items()
        for cost in profile_stage(
            module,
            stage,
            count,
            boundary,
            batch,
            split=Kind.I in kinds,
            recompute=stage in redone,
            repeats=repeats,
        )
    ]
    exchanged = exchange(store, "profile", rank, program.problem.ranks, list(map(astuple, mine)))
    ops = {
        Slot(Kind(kind), stage, seg, light): Measured(*figures)
        for rows in exchanged
        for kind, stage, seg, *figures, light in rows
    }
    cut = boundary.segments[0]
    sizes = tuple(
        boundary.batch * segment.tokens * boundary.hidden * boundary.dtype.itemsize
        for segment in cut
    )
    links = measure_links(program, rank, boundary, transport, store)
    return MeasuredCosts(ops, sizes, links)
