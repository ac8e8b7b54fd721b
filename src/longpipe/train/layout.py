"""From a config to a checked plan: nothing runs before the whole program has been proved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longpipe.cost.analytic import AnalyticCosts, Device, Load
from longpipe.cost.comm import Link
from longpipe.cost.flops import (
    DecoderShape,
    StageShape,
    causal_pairs,
    coefficients,
    stage_shapes,
)
from longpipe.errors import ConfigError, PlanError
from longpipe.ir import Kind, Op, Placement, Problem, Program, Schedule, to_text
from longpipe.model.config import DecoderConfig
from longpipe.passes import stages_named, without_sharding
from longpipe.plan import (
    balanced_layers,
    check_same,
    checked_cuts,
    checked_layers,
    equal_cost_cuts,
    even_cuts,
    named,
    read_order,
)
from longpipe.plan.plan import Plan
from longpipe.schedules import build
from longpipe.train.candidates import candidates
from longpipe.train.config import Config
from longpipe.train.config_pipeline import PipelineConfig, check_cuts
from longpipe.validate import validate

_BYTES = {"float32": (4, 4), "bfloat16": (2, 4), "float64": (8, 8)}  # activation, gradient
_UNIT = (
    Device(1.0),
    Link(0.0, math.inf),
)  # relative times of ops; how fast messages are, nobody knows


@dataclass(frozen=True, slots=True)
class Layout:
    """A plan, its validated program, and the sizes that costs are worked out from.

    `candidates` are the programs that [tune] may change to, by group; empty without.
    """

    plan: Plan
    program: Program
    shape: DecoderShape
    load: Load
    candidates: Mapping[int, Program]


def make_layout(config: Config, model: DecoderConfig) -> Layout:
    """Divide layers and sequences as [pipeline] asks, and prove the schedule.

    Raises:
        ConfigError: the sequences cannot be cut as asked.
        PlanError: the layers do not fit the stages.
        ProblemError: the schedule cannot order this many ranks, micro-batches, chunks or segments.
        ScheduleError: pipeline.weight_queue_bytes is too small.
    """
    pipeline, tokens = config.pipeline, config.data.sequence_length
    shape = DecoderShape.from_hf(model.to_hf())
    problem = Problem(pipeline.ranks, pipeline.microbatches, pipeline.chunks, pipeline.segments)
    written = _written(pipeline, problem)
    placement = (
        written or build(pipeline.schedule, problem, None, **dict(pipeline.options))
    ).placement
    partition = _partition(config, shape, placement)
    cuts = (_cuts(config, shape, partition),) * pipeline.microbatches
    plan = Plan(
        pipeline.schedule,
        problem,
        partition,
        cuts,
        pipeline.weight_queue_bytes,
        pipeline.options,
        order=to_text(written) if written else "",
        recompute=pipeline.recompute,
        recompute_stages=_redone(pipeline, placement),
    )
    dtype_bytes, grad_bytes = _BYTES[config.train.precision]
    load = Load(
        partition,
        cuts,
        config.train.microbatch_size,
        dtype_bytes,
        grad_bytes,
        keeps_attention=pipeline.recompute == "selective",
    )
    costs = AnalyticCosts(problem, shape, load, *_UNIT)

    def held(weight: Op) -> int:
        return -costs.holds(weight)

    program = plan.program(costs, held)
    assert plan.sequence_length == tokens, "cuts cover the sequence"
    return Layout(plan, program, shape, load, candidates(config, plan, costs, held))


def _written(pipeline: PipelineConfig, problem: Problem) -> Schedule | Program | None:
    """The order in a file, if the config names one; proved right, and for this problem.

    Gathers and reductions in it are left out: a rank holds its weights whole.
    """
    if named(pipeline.schedule) is not None:
        return None
    if pipeline.options:
        names = " and ".join(f"pipeline.{name}" for name, _ in pipeline.options)
        raise ConfigError(f"the order in {pipeline.schedule} is fixed: leave out {names}")
    path = Path(pipeline.schedule)
    what = read_order(path, pipeline.segments)
    check_same(path, what.problem, problem)
    validate(what)
    return without_sharding(what)


def _redone(pipeline: PipelineConfig, placement: Placement) -> tuple[int, ...]:
    """The stages that make their activations again."""
    if pipeline.recompute == "none":
        return ()
    asked = pipeline.recompute_stages
    return stages_named(asked, placement) if isinstance(asked, str) else tuple(sorted(set(asked)))


def _step_flops(pipeline: PipelineConfig, shape: DecoderShape, stage: StageShape, n: int) -> int:
    """FLOPs of a training step on one sequence of `n` tokens: what cuts and partition balance."""
    linear, pair = _step_coefficients(pipeline, shape, stage)
    return linear * n + pair * causal_pairs(0, n)


def _step_coefficients(
    pipeline: PipelineConfig, shape: DecoderShape, stage: StageShape
) -> tuple[int, int]:
    """Recompute counts where all stages do it; where only some do, layers would not be alike."""
    redone = pipeline.recompute != "none" and pipeline.recompute_stages == "all"
    kinds = (Kind.F, Kind.B, Kind.R) if redone else (Kind.F, Kind.B)
    selective = pipeline.recompute == "selective"
    return coefficients(shape, stage, kinds, keeps_attention=selective)


def _partition(config: Config, shape: DecoderShape, placement: Placement) -> tuple[int, ...]:
    """Layers per stage; balanced: by the FLOPs of a step, the head counted to the last stage."""
    asked = config.pipeline.partition
    if asked != "balanced":
        return checked_layers(asked, shape.layers, placement.stages)
    tokens = config.data.sequence_length
    layer = _step_flops(config.pipeline, shape, StageShape(1), tokens)
    head = _step_flops(config.pipeline, shape, StageShape(0, last=True), tokens)
    return balanced_layers(shape.layers, placement, layer=layer, last=head)


def _cuts(config: Config, shape: DecoderShape, partition: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of the segments; balanced: of equal FLOPs on the stage that has the most."""
    pipeline, tokens = config.pipeline, config.data.sequence_length
    try:
        check_cuts(pipeline, tokens)
        if isinstance(pipeline.cuts, tuple):
            return checked_cuts(pipeline.cuts, tokens)
        if pipeline.cuts == "even":
            return even_cuts(tokens, pipeline.segments)
        slowest = max(
            stage_shapes(partition),
            key=lambda stage: _step_flops(pipeline, shape, stage, tokens),
        )
        linear, pair = _step_coefficients(pipeline, shape, slowest)
        return equal_cost_cuts(
            tokens, pipeline.segments, linear=linear, pair=pair, multiple=pipeline.cut_multiple
        )
    except PlanError as error:
        raise ConfigError(f"[pipeline] cuts: {error}") from error
