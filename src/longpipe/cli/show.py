"""`longpipe show`: the picture of a schedule."""

from rich.console import Console
from rich.text import Text

from longpipe.cli._app import app
from longpipe.cli._numbers import print_numbers
from longpipe.cli._options import (
    Chunks,
    Comm,
    Costs,
    Microbatches,
    Name,
    Ranks,
    Segments,
    built,
    priced,
)
from longpipe.cli._picture import coloured
from longpipe.schedules import entry
from longpipe.simulate import measure, simulate
from longpipe.view import picture


@app.command(epilog="Example: `longpipe show seq1f1b --ranks 4 --microbatches 4 --segments 2`")
def show(
    name: Name,
    ranks: Ranks = 4,
    microbatches: Microbatches = 4,
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
    schedule = built(name, ranks, microbatches, chunks, segments)
    timeline = simulate(schedule, priced(schedule.problem, costs, comm))
    console = Console()
    about = entry(name)
    console.print(Text(f"{about.title}: {about.paper}", style="bold"))
    console.print(coloured(picture(timeline, console.width)), soft_wrap=True)
    print_numbers(measure(timeline), "peak act.")
