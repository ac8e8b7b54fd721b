"""Costs from the shape of the model, the cuts, and a device's and a link's speed."""

from dataclasses import dataclass, field

from longpipe.cost.activations import Activations
from longpipe.cost.comm import Copies, Link
from longpipe.cost.flops import DecoderShape, op_flops, stage_shapes
from longpipe.errors import PlanError
from longpipe.ir import COMPUTE, Kind, Memory, Op, Problem, Segment, segments_from_lengths


@dataclass(frozen=True, slots=True)
class Device:
    """Achieved FLOP/s of one rank, and the seconds that an op costs whatever its size."""

    flops_per_s: float
    op_overhead_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.flops_per_s > 0 and self.op_overhead_s >= 0):
            raise PlanError(f"a device needs a speed above 0 and an overhead of 0 s up, got {self}")


@dataclass(frozen=True, slots=True)
class Load:
    """What a step works on: `layers` of each stage, lengths of segments, rows, and types.

    `cuts` holds the lengths of the segments of every micro-batch, or of each one. With
    `keeps_attention` an R makes all again but attention's outputs, which its F keeps.
    """

    layers: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    rows: int = 1
    dtype_bytes: int = 2
    grad_bytes: int = 4
    keeps_attention: bool = False


@dataclass(frozen=True, slots=True)
class _Cost:
    time_s: float
    holds_bytes: int
    scratch_bytes: int
    message_bytes: int
    light: Memory


@dataclass(frozen=True, slots=True)
class AnalyticCosts:
    """Seconds from FLOPs (`op_flops`), bytes from the tensors kept (`Activations`).

    A tick is a second, a cell a byte. `copies` is needed for sharded weights alone. Raises
    PlanError where the load does not fit the problem.
    """

    problem: Problem
    shape: DecoderShape
    load: Load
    device: Device
    link: Link
    copies: Copies | None = None
    tick_s: float = field(default=1.0, init=False)
    cell_bytes: float = field(default=1.0, init=False)
    _table: dict[tuple[Kind, int, int, int], _Cost] = field(init=False, repr=False)
    _cut: tuple[int, ...] = field(
        init=False, repr=False
    )  # of a micro-batch, among those that differ

    def __post_init__(self) -> None:
        _check(self.problem, self.shape, self.load)
        distinct = tuple(dict.fromkeys(self.load.cuts))
        table = {
            (kind, index, cut, segment.index): self._cost(kind, index, segments, segment)
            for cut, segments in enumerate(map(segments_from_lengths, distinct))
            for index in range(self.problem.stages)
            for segment in segments
            for kind in COMPUTE
        }
        one = len(self.load.cuts) == 1
        cuts = self.load.cuts * self.problem.microbatches if one else self.load.cuts
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_cut", tuple(map(distinct.index, cuts)))

    def _cost(
        self, kind: Kind, index: int, segments: tuple[Segment, ...], segment: Segment
    ) -> _Cost:
        load, stage = self.load, stage_shapes(self.load.layers)[index]
        keeps = load.keeps_attention
        flops = load.rows * op_flops(kind, self.shape, stage, segment, keeps_attention=keeps)
        memory = Activations(
            self.shape, stage, segments, load.rows, load.dtype_bytes, load.grad_bytes, keeps
        )
        return _Cost(
            self.device.op_overhead_s + flops / self.device.flops_per_s,
            memory.holds(kind, segment),
            memory.scratch(kind, segment),
            segment.tokens * load.rows * self.shape.hidden * load.dtype_bytes,
            memory.light(segment),
        )

    def _of(self, op: Op) -> _Cost:
        return self._table[op.kind, op.stage, self._cut[op.mb], op.seg]

    def ticks(self, op: Op) -> float:
        """Seconds that a compute op takes."""
        return self._of(op).time_s

    def pair_ticks(self, first: Op, second: Op) -> None:
        """Our decoder has no fused pairs."""
        return None

    def shard_ticks(self, op: Op) -> float:
        """Seconds to gather the stage's matrices, or to reduce their gradients."""
        if self.copies is None:
            raise PlanError(f"{op} works on sharded weights: say over which `copies` they are")
        stage = stage_shapes(self.load.layers)[op.stage]
        ends = (stage.first + stage.last) * self.shape.vocab * self.shape.hidden
        numbers = stage.layers * self.shape.layer_weights + ends
        gathers = op.kind is Kind.UNSHARD
        size = self.load.dtype_bytes if gathers else self.load.grad_bytes
        return self.copies.seconds(numbers * size)

    def delay(self, op: Op, source: int, destination: int) -> float:
        """Seconds until the op's activation, or its gradient, lies on the other rank."""
        return 0.0 if source == destination else self.link.seconds(self._of(op).message_bytes)

    def holds(self, op: Op) -> int:
        """Bytes that stay after the op (negative: that it frees)."""
        return self._of(op).holds_bytes

    def scratch(self, op: Op) -> int:
        """Bytes above what was held before, at the op's own peak."""
        return self._of(op).scratch_bytes

    def light(self, op: Op) -> Memory:
        """Bytes of an F whose activations an R makes again: its input, keys and values stay."""
        return self._of(op).light


def _check(problem: Problem, shape: DecoderShape, load: Load) -> None:
    if len(load.layers) != problem.stages or sum(load.layers) != shape.layers:
        raise PlanError(
            f"layers per stage {load.layers} must be {problem.stages} numbers (one per stage) "
            f"that add up to the model's {shape.layers}"
        )
    if len(load.cuts) not in (1, problem.microbatches):
        raise PlanError(
            f"cuts are given for {len(load.cuts)} of {problem.microbatches} micro-batches: "
            "give one for all, or one for each"
        )
    for mb in range(problem.microbatches):
        lengths = load.cuts[mb if len(load.cuts) > 1 else 0]
        if len(lengths) != problem.segments_of(mb):
            raise PlanError(
                f"micro-batch {mb} is cut in {len(lengths)} segments {lengths}, the problem has "
                f"{problem.segments_of(mb)}: make them agree"
            )
