"""From a config to a checked plan: nothing runs before the whole program has been proved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longpipe.cost.analytic import AnalyticCosts, Device, Load
from longpipe.cost.comm import Link
from longpipe.cost.flops import (
    DecoderShape,
)
from longpipe.errors import ConfigError, PlanError
from longpipe.ir import Op, Placement, Problem, Program, Schedule, to_text
from longpipe.model.config import DecoderConfig
from longpipe.passes import stages_named, without_sharding
from longpipe.plan import (
    check_same,
    checked_cuts,
    checked_layers,
    even_cuts,
    named,
    read_order,
)
from longpipe.plan.balance import StepFlops
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


def _step(pipeline: PipelineConfig, shape: DecoderShape) -> StepFlops:
    """What cuts and partition balance: R counts where all stages have it, else layers differ."""
    if pipeline.recompute == "none" or pipeline.recompute_stages != "all":
        return StepFlops(shape)
    return StepFlops(shape, pipeline.recompute)


def _partition(config: Config, shape: DecoderShape, placement: Placement) -> tuple[int, ...]:
    """Layers per stage; balanced: by the FLOPs of a step, the head counted to the last stage."""
    asked = config.pipeline.partition
    if asked != "balanced":
        return checked_layers(asked, shape.layers, placement.stages)
    return _step(config.pipeline, shape).layers(placement, config.data.sequence_length)


def _cuts(config: Config, shape: DecoderShape, partition: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of the segments; balanced: of equal FLOPs on the stage that has the most."""
    pipeline, tokens = config.pipeline, config.data.sequence_length
    try:
        check_cuts(pipeline, tokens)
        if isinstance(pipeline.cuts, tuple):
            return checked_cuts(pipeline.cuts, tokens)
        if pipeline.cuts == "even":
            return even_cuts(tokens, pipeline.segments)
        step, multiple = _step(pipeline, shape), pipeline.cut_multiple
        return step.cuts(partition, tokens, pipeline.segments, multiple)
    except PlanError as error:
        raise ConfigError(f"[pipeline] cuts: {error}") from error
