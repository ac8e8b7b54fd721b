"""longpipe's schedules, and the ideal that no pipeline can beat, on the same decoder."""

import torch

from benchmarks.workload import Workload
from longpipe.cost import MeasuredCosts
from longpipe.cost.flops import DecoderShape, StageShape, coefficients
from longpipe.ir import Problem, Program, Segment, segments_from_lengths
from longpipe.model import DecoderStage
from longpipe.passes import add_messages
from longpipe.plan.segments import equal_cost_cuts
from longpipe.runtime import Boundary, Executor, Transport
from longpipe.runtime.profile import measure_costs
from longpipe.runtime.store import Store
from longpipe.schedules import build
from longpipe.simulate import measure, simulate
from longpipe.validate import validate


class LongpipeMode:
    """One of longpipe's schedules, ready to run steps on this rank."""

    def __init__(
        self, name: str, chunks: int, segments: int, rank: int, ranks: int, work: Workload,
        transport: Transport,
    ):  # fmt: skip
        self.program: Program = add_messages(
            build(name, Problem(ranks, work.microbatches, chunks, segments))
        )
        validate(self.program)
        owned = self.program.placement.stages_of(rank)
        stages = self.program.problem.stages
        self.modules = {index: work.stage(index, stages) for index in owned}
        self.segments = cuts(work, segments)
        self.boundary = Boundary(1, work.config.hidden, (self.segments,) * work.microbatches)
        self.executor = Executor(self.program, rank, self.modules, transport, self.boundary)
        self._rank, self._transport = rank, transport
        self._batches = work.batches()
        self._scale = work.scale

    def step(self) -> None:
        """Forward and backward of the whole batch."""
        self.executor.run_step(self._batches, self._scale)

    def costs(self, store: Store) -> MeasuredCosts:
        """Seconds and bytes of every op on this machine; they hold for any micro-batch count."""
        return measure_costs(
            self.program, self._rank, self.modules, self._batches[0], self.boundary,
            self._transport, store,
        )  # fmt: skip

    def forecast(self, costs: MeasuredCosts) -> tuple[float, tuple[float, ...]]:
        """Seconds of a step and peak bytes of each rank."""
        found = measure(simulate(self.program, costs))
        assert found.peak_memory is not None, "measured costs know memory"
        return found.makespan_s, tuple(found.peak_memory)


class IdealMode:
    """The unsplit model in this process alone: every core busy, no pipeline, no messages."""

    def __init__(self, work: Workload) -> None:
        self.modules: dict[int, DecoderStage] = {0: work.stage(0, 1)}
        self._work = work
        self._batches = work.batches()

    def step(self) -> None:
        """Forward and backward of the whole batch, micro-batch by micro-batch."""
        model = self.modules[0]
        for batch in self._batches:
            state = model.open(batch)
            loss = model(None, state, Segment(0, 0, self._work.tokens))
            loss.backward(torch.full_like(loss, self._work.scale))
            model.close(state)


def cuts(work: Workload, segments: int) -> tuple[Segment, ...]:
    """Segments of equal training FLOPs."""
    shape = DecoderShape.from_hf(work.config.to_hf())
    linear, pair = coefficients(shape, StageShape(shape.layers, first=True, last=True))
    lengths = equal_cost_cuts(work.tokens, segments, linear=linear, pair=pair, multiple=64)
    return segments_from_lengths(lengths)
