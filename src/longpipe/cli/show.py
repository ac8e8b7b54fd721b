"""`longpipe show`: the picture of a schedule."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from longpipe.cli._app import app
from longpipe.cli._numbers import print_numbers
from longpipe.cli._options import (
    Chunks,
    Comm,
    Costs,
    Name,
    Segments,
    built,
    named,
    priced,
)
from longpipe.cli._picture import coloured
from longpipe.simulate import measure, simulate
from longpipe.view import picture

_SIZE = 4  # a picture that fits a terminal


@app.command(epilog="Example: `longpipe show seq1f1b --ranks 4 --microbatches 4 --segments 2`")
def show(
    name: Name,
    ranks: Annotated[
        int | None, typer.Option(help="Processes in the pipeline; 4 if not given.")
    ] = None,
    microbatches: Annotated[
        int | None, typer.Option(help="Micro-batches of a step; 4 if not given.")
    ] = None,
    chunks: Chunks = None,
    segments: Segments = "1",
    costs: Costs = "F=1,I=1,W=1",
    comm: Comm = "0",
) -> None:
    """Draw a schedule and print its numbers.

    `2F3.1` is stage 2, forward, micro-batch 3, segment 1 (not written if 0). B is a full
    backward; I and W are its halves, for the input and for the weights. A dot is idle, a dash
    goes on with the op before.
    """
    about = named(name)
    if about is not None:
        ranks = _SIZE if ranks is None else ranks
        microbatches = _SIZE if microbatches is None else microbatches
    schedule = built(name, ranks, microbatches, chunks, segments)
    timeline = simulate(schedule, priced(schedule.problem, costs, comm))
    console = Console()
    head = f"{about.title}: {about.paper}" if about else f"{schedule.name}: {name}"
    console.print(Text(head, style="bold"))
    console.print(coloured(picture(timeline, console.width)), soft_wrap=True)
    print_numbers(measure(timeline), "peak act.")
