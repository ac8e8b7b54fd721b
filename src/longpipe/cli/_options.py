"""Options that several verbs share: which schedule, of what size, at what costs."""

from typing import Annotated

import typer

from longpipe.cost import UniformCosts
from longpipe.ir import Problem, Schedule
from longpipe.schedules import build, entry

Name = Annotated[str, typer.Argument(help="A schedule that `longpipe zoo` lists.")]
Ranks = Annotated[int, typer.Option(help="Processes in the pipeline.")]
Microbatches = Annotated[int, typer.Option(help="Micro-batches of a step.")]
Chunks = Annotated[
    int | None,
    typer.Option(help="Stages of each rank; what the schedule needs, if not given."),
]
Segments = Annotated[
    str,
    typer.Option(help="Segments of each micro-batch: one number, or one for each as in `4,4,2`."),
]
Costs = Annotated[
    str,
    typer.Option(
        help="Times of one full micro-batch on one full stage, such as `F=1,I=1.2,W=0.8`; "
        "what is not named is 1. B takes I + W; a chunk or a segment its share."
    ),
]
Comm = Annotated[str, typer.Option(help="Time of one message, in the unit of the costs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_COSTS = {"F": "forward", "I": "input_grad", "W": "weight_grad"}


def built(name: str, ranks: int, microbatches: int, chunks: int | None, segments: str) -> Schedule:
    """The schedule of that name and size."""
    needed = entry(name).chunks
    if chunks is None:
        chunks = 2 if needed is None else needed
    return build(name, Problem(ranks, microbatches, chunks, _segments(segments)))


def priced(problem: Problem, costs: str, comm: str) -> UniformCosts:
    """The costs that `--costs` and `--comm` describe."""
    times: dict[str, str] = {}
    for part in filter(None, costs.split(",")):
        kind, _, time = part.partition("=")
        if kind.strip() not in _COSTS or not time:
            raise typer.BadParameter(
                f"{part!r} is not one of F=, I=, W= and a number", param_hint="--costs"
            )
        times[_COSTS[kind.strip()]] = time.strip()
    return UniformCosts(problem, **times, comm=comm)


def _segments(text: str) -> int | tuple[int, ...]:
    try:
        counts = tuple(map(int, text.split(",")))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no whole number, nor a list such as 4,4,2", param_hint="--segments"
        ) from None
    return counts if len(counts) > 1 else counts[0]
