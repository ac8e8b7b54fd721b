"""Schedules side by side: what each takes in time and memory for one model on one machine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from longpipe.cost import AnalyticCosts, DecoderShape, Device, Link, Load
from longpipe.errors import LongpipeError, PlanError, ProblemError
from longpipe.ir import Placement, Problem, Schedule
from longpipe.passes import recompute
from longpipe.plan.balance import Recompute, StepFlops
from longpipe.schedules import Entry, Option, entries, entry
from longpipe.simulate import measure, simulate

_TILE = 128  # kernels work in tiles: lengths of segments are multiples of so many tokens
_SHORT = {"memory_limit": "limit"}
_LIMITS = (0.25, 0.5, 1)  # micro-batches by rank, beside the schedule's own default


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders share: the model, the sequences of a step, the ranks, the machine.

    A micro-batch is `rows` sequences of `tokens`. `weight_bytes` is what a rank keeps for each of
    its weights: 18 for bfloat16 weights (2), float32 gradients (4), master weights and Adam's two
    moments (12).
    """

    shape: DecoderShape
    tokens: int
    ranks: int
    microbatches: int
    device: Device
    link: Link
    rows: int = 1
    weight_bytes: int = 18


@dataclass(frozen=True, slots=True)
class Contender:
    """A schedule at one size, with its options.

    `recompute`: an R before every backward, which makes again all ("full") or all but attention's
    outputs ("selective"); None: no R.
    """

    schedule: str
    chunks: int = 1
    segments: int = 1
    options: tuple[tuple[str, Option], ...] = ()
    recompute: Recompute | None = None

    def __str__(self) -> str:
        sizes = {"v": self.chunks, "k": self.segments}
        said = [f"{name}={size}" for name, size in sizes.items() if size > 1]
        said += [f"{_SHORT.get(name, name)}={value:g}" for name, value in self.options if value]
        return " ".join(
            [self.schedule, *said, *([f"+{self.recompute}"] * (self.recompute is not None))]
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the cost model promises of a contender: seconds of a step, bytes of the busiest rank.

    `activation_bytes` is the most that a rank holds at once between forward and backward (deferred
    weight gradients, keys and values included), `state_bytes` its weights, their gradients and the
    optimizer's state; `peak_bytes` the largest sum of the two over the ranks.
    """

    contender: Contender
    layers: tuple[int, ...]
    cuts: tuple[int, ...]
    step_s: float
    activation_bytes: float
    state_bytes: float
    peak_bytes: float
    global_bubble_rate: float
    span_bubble_rate: float


def contenders(
    setting: Setting, segments: Iterable[int], names: Iterable[str] = ()
) -> Iterator[Contender]:
    """Every registered schedule (or those of `names`) at each number of segments that it takes.

    Schedules with any number of chunks come with 2 and 4; each comes without and with
    recompute.
    Whether the size suits, `order` says.
    """
    counts = tuple(segments)
    asked = [entry(name) for name in names] or entries()
    plain = {about.name for about in asked if not about.segments}
    for about in asked:
        # One segment is the plain form: twice the same would only cost time.
        ks = [k for k in counts if k > 1 or about.name.removeprefix("seq-") not in plain]
        sizes = product(_chunks(about), ks if about.segments else (1,))
        for (chunks, k), options in product(sizes, tuple(_options(about, setting))):
            for again in (None, *get_args(Recompute)):
                yield Contender(about.name, chunks, k, options, again)


def _chunks(about: Entry) -> tuple[int, ...]:
    if about.chunks is None:
        return 2, 4
    return (about.chunks, 2 * about.chunks) if about.more_chunks else (about.chunks,)


def _options(about: Entry, setting: Setting) -> Iterator[tuple[tuple[str, Option], ...]]:
    """Memory limits around 1F1B's p micro-batches; two in a group, since one is 1F1B."""
    if "memory_limit" in about.options:
        yield ()
        yield from ((("memory_limit", setting.ranks * share),) for share in _LIMITS)
    elif "group" in about.options:
        yield (("group", 2),)
    else:
        yield ()


def order(contender: Contender, setting: Setting) -> Schedule:
    """Build the contender, without its recompute; one that searches gets the setting's costs.

    Raises ProblemError or PlanError where the contender does not suit the setting.
    """
    about = entry(contender.schedule)
    problem = Problem(setting.ranks, setting.microbatches, contender.chunks, contender.segments)
    costs = priced(setting, problem, placement_of(about, problem)) if about.searches else None
    return about.build(problem, costs=costs, **dict(contender.options))


def placement_of(about: Entry, problem: Problem) -> Placement:
    """Where the schedule puts the stages."""
    if about.searches:  # which depends on no cost: a search over one micro-batch is short
        problem = Problem(problem.ranks, 1, problem.chunks)
    return about.build(problem).placement


def priced(
    setting: Setting, problem: Problem, placement: Placement, again: Recompute | None = None
) -> AnalyticCosts:
    """Costs of the setting's model, with layers and cuts of equal FLOPs."""
    shape, tokens = setting.shape, setting.tokens
    step = StepFlops(shape, again)
    layers = step.layers(placement, tokens)
    cuts = step.cuts(layers, tokens, problem.segments_max, _TILE)
    load = Load(layers, (cuts,), setting.rows, keeps_attention=again == "selective")
    return AnalyticCosts(problem, shape, load, setting.device, setting.link)


def forecast(contender: Contender, setting: Setting, schedule: Schedule) -> Forecast:
    """Simulate the contender's `order` at the setting's costs, with its recompute.

    Raises PlanError as `order` does.
    """
    costs = priced(setting, schedule.problem, schedule.placement, contender.recompute)
    if contender.recompute is not None:
        schedule = recompute(schedule)
    found = measure(simulate(schedule, costs))
    assert found.peak_memory is not None, "a simulation knows memory"
    states = _states(setting, costs.load.layers, schedule.placement)
    return Forecast(
        contender,
        costs.load.layers,
        costs.load.cuts[0],
        found.makespan_s,
        max(found.peak_memory),
        max(states),
        max(map(sum, zip(found.peak_memory, states, strict=True))),
        found.global_bubble_rate,
        found.span_bubble_rate,
    )


def compare(
    setting: Setting, field: Iterable[Contender]
) -> Iterator[tuple[Contender, Forecast | LongpipeError]]:
    """The forecast of each contender, or why there is none, one after the other."""
    built: tuple[Contender, Schedule] | None = None
    for contender in field:
        plain = replace(contender, recompute=None)
        try:
            if built is None or built[0] != plain:  # a search takes its time
                built = plain, order(plain, setting)
            yield contender, forecast(contender, setting, built[1])
        except (PlanError, ProblemError) as refusal:
            yield contender, refusal


def front(forecasts: Iterable[Forecast], limit_bytes: float | None = None) -> tuple[Forecast, ...]:
    """Those that no other beats in both time and memory, fastest first: the Pareto front.

    With `limit_bytes` only among those that fit.
    """
    found: list[Forecast] = []
    for one in sorted(forecasts, key=lambda one: (one.step_s, one.peak_bytes)):
        fits = limit_bytes is None or one.peak_bytes <= limit_bytes
        if fits and (not found or one.peak_bytes < found[-1].peak_bytes):
            found.append(one)
    return tuple(found)


def _states(setting: Setting, layers: tuple[int, ...], placement: Placement) -> tuple[int, ...]:
    """Bytes of each rank's weights, gradients and optimizer state."""
    shape = setting.shape
    weights = [count * shape.layer_weights for count in layers]
    weights[0] += shape.hidden * shape.vocab  # embedding
    weights[-1] += shape.hidden * shape.vocab  # head
    owned = map(placement.stages_of, range(placement.ranks))
    return tuple(setting.weight_bytes * sum(weights[stage] for stage in own) for own in owned)
