"""Options that several verbs share: which schedule, of what size, at what costs."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import Problem, Program, Schedule
from longpipe.passes import add_sharding, recompute, stages_named
from longpipe.plan import named, read_order
from longpipe.schedules import Entry, build
from longpipe.validate import validate

_MOST_OPS = 10_000_000  # about 6 GB of memory and two minutes
_MOST_RANKS = 16_384  # a line of output for each
_COSTS = {
    "F": "forward", "I": "input_grad", "W": "weight_grad", "FB": "pair", "R": "recompute",
    "UNSHARD": "gather", "REDUCE_GRAD": "reduce",
}  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the shared options say; each field is one of them (see `takes_schedule`)."""

    name: Annotated[
        str,
        typer.Argument(
            help="A schedule that `longpipe zoo` lists, or a file: our text, or torch's CSV."
        ),
    ]
    ranks: Annotated[
        int | None, typer.Option(help="Processes in the pipeline; needed, but not for a file.")
    ] = None
    microbatches: Annotated[
        int | None, typer.Option(help="Micro-batches of a step; needed, but not for a file.")
    ] = None
    chunks: Annotated[
        int | None,
        typer.Option(help="Stages of each rank; what the schedule needs, if not given."),
    ] = None
    segments: Annotated[
        str,
        typer.Option(
            help="Segments of each micro-batch: one number, or one for each as in `4,4,2`. "
            "A file of torch's CSV needs it too."
        ),
    ] = "1"
    memory_limit: Annotated[
        float | None,
        typer.Option(
            help="Of a schedule that searches: what a rank may hold, in full micro-batches on a "
            "full stage."
        ),
    ] = None
    group: Annotated[
        int | None, typer.Option(help="Of kfkb: forwards, and then backwards, in a row.")
    ] = None
    recompute: Annotated[
        str | None,
        typer.Option(
            help="Stages that make their activations again before each backward: `all`, `chunk:0` "
            "(the first of each rank), or numbers as in `0,3`."
        ),
    ] = None
    shard_buffers: Annotated[
        int | None,
        typer.Option(
            help="Shard weights over copies of the pipeline, with room for so many whole stages: "
            "places every gather and reduction."
        ),
    ] = None
    costs: Annotated[
        str,
        typer.Option(
            help="Times of one full micro-batch on one full stage, such as `F=1,I=1.2,W=0.8`; "
            "what is not named is 1, but R (recompute) is as F. B takes I + W; a chunk or a "
            "segment its share. `FB=2.5` fuses the pairs of a schedule that has some; else they "
            "run as two ops. `UNSHARD=` and `REDUCE_GRAD=` are for sharded weights, 0 if not "
            "given. Schedules that search do it with these."
        ),
    ] = "F=1,I=1,W=1"
    comm: Annotated[str, typer.Option(help="Time of one message, in the unit of the costs.")] = "0"

    def schedule(self) -> Schedule:
        """The schedule of that name and size, or in that file, validated; with its passes."""
        what = self._plain()
        if self.recompute is not None:
            what = recompute(what, stages_named(self.recompute, what.placement))
        if self.shard_buffers is not None:
            what = add_sharding(what, self.shard_buffers)
        return what

    def _plain(self) -> Schedule:
        counts = segment_counts(self.segments)
        about = named(self.name)
        if about is None:
            return self._from_file(Path(self.name), counts)
        if self.ranks is None or self.microbatches is None:
            missing = "--ranks" if self.ranks is None else "--microbatches"
            raise typer.BadParameter("needed with the name of a schedule", param_hint=missing)
        chunks = self.chunks
        if chunks is None:
            chunks = 2 if about.chunks is None else about.chunks
        problem = Problem(self.ranks, self.microbatches, chunks, counts)
        _refuse_absurd(about, problem)
        given = {"memory_limit": self.memory_limit, "group": self.group}
        options = {option: value for option, value in given.items() if value is not None}
        return build(about.name, problem, self.priced(problem), **options)

    def _from_file(self, path: Path, segments: int | tuple[int, ...]) -> Schedule:
        what = read_order(path, segments if isinstance(segments, int) else 1)
        validate(what)
        asked = {
            "ranks": self.ranks,
            "microbatches": self.microbatches,
            "chunks": self.chunks,
            "segments": None if segments == 1 else segments,
        }
        for option, value in asked.items():
            held = getattr(what.problem, option)
            if value is not None and value != held:
                raise typer.BadParameter(f"{path} has {option}={held}", param_hint=f"--{option}")
        for option in ("memory_limit", "group"):
            if getattr(self, option) is not None:
                hint = "--" + option.replace("_", "-")
                raise typer.BadParameter("the order in a file is fixed", param_hint=hint)
        return what.schedule() if isinstance(what, Program) else what

    def priced(self, problem: Problem) -> UniformCosts:
        """The costs that `--costs` and `--comm` describe."""
        times: dict[str, str] = {}
        for part in filter(None, self.costs.split(",")):
            kind, _, time = part.partition("=")
            if kind.strip() == "B":
                raise typer.BadParameter(
                    "B is I + W: give its two halves, such as I=1,W=1", param_hint="--costs"
                )
            if kind.strip() not in _COSTS or not time:
                raise typer.BadParameter(
                    f"{part!r} is not one of {'=, '.join(_COSTS)}= and a number",
                    param_hint="--costs",
                )
            times[_COSTS[kind.strip()]] = time.strip()
        return UniformCosts(problem, **times, comm=self.comm)

    def said(self) -> str:
        """Where times come from that `priced` gives, in a few words."""
        messages = "" if self.comm == "0" else f", messages {self.comm}"
        return f"unit costs {self.costs}{messages}"


def takes_schedule(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb, whose first parameter is `asked: Asked`, the shared options in its place."""
    return _with_options(verb, inspect.signature(Asked).parameters.values(), lambda asked: asked)


def takes_several(what: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same for a verb whose first parameter is `asked: list[Asked]`, one for each argument.

    `what` is the annotation of the arguments, a list of names.
    """
    name, *others = inspect.signature(Asked).parameters.values()
    shared = [name.replace(annotation=what), *others]

    def several(asked: Asked) -> list[Asked]:
        return [replace(asked, name=str(each)) for each in asked.name]

    return lambda verb: _with_options(verb, shared, several)


def _with_options(
    verb: Callable[..., None],
    shared: Iterable[inspect.Parameter],
    given: Callable[[Asked], Any],
) -> Callable[..., None]:
    own = list(inspect.signature(verb).parameters.values())[1:]

    @wraps(verb)
    def run(**values: Any) -> None:
        asked = Asked(**{field.name: values.pop(field.name) for field in fields(Asked)})
        verb(given(asked), **values)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*shared, *own)]
    # Typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _refuse_absurd(about: Entry, problem: Problem) -> None:
    """Say that it is too much before filling the memory."""
    segments = problem.segments
    units = sum(segments) if isinstance(segments, tuple) else problem.microbatches * segments
    ops = problem.stages * units * (3 if about.splits else 2)
    if ops > _MOST_OPS:
        raise ProblemError(
            f"{about.name} of this size has {ops:,} ops, more than the {_MOST_OPS:,} that the "
            "command line takes: lower --ranks, --microbatches, --chunks or --segments"
        )
    if problem.ranks > _MOST_RANKS:
        raise ProblemError(
            f"{problem.ranks:,} ranks are more than the {_MOST_RANKS:,} of which the command line "
            "prints a line each: lower --ranks, or call longpipe.build from Python"
        )


def segment_counts(text: str) -> int | tuple[int, ...]:
    """What `--segments` says."""
    try:
        counts = tuple(map(int, text.split(",")))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no whole number, nor a list such as 4,4,2", param_hint="--segments"
        ) from None
    return counts if len(counts) > 1 else counts[0]
