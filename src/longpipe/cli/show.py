"""`longpipe show`: the picture of a schedule."""

from dataclasses import replace

from rich.console import Console
from rich.text import Text

from longpipe.cli._app import app
from longpipe.cli._numbers import print_numbers
from longpipe.cli._options import Asked, takes_schedule
from longpipe.cli._picture import coloured
from longpipe.plan import named
from longpipe.schedules import Entry, example
from longpipe.simulate import measure, simulate
from longpipe.view import picture

_SIZE = 4  # a picture that fits a terminal


@app.command(epilog="Example: `longpipe show seq1f1b --ranks 4 --microbatches 4 --segments 2`")
@takes_schedule
def show(asked: Asked) -> None:
    """Draw a schedule and print its numbers.

    `2F3.1` is stage 2, forward, micro-batch 3, segment 1 (not written if 0). B is a full
    backward; I and W are its halves, for the input and for the weights. A dot is idle, a dash
    goes on with the op before. Ranks are 4 if not given, micro-batches as many as the schedule
    needs for them.
    """
    about = named(asked.name)
    if about is not None:
        asked = _sized(asked, about)
    schedule = asked.schedule()
    timeline = simulate(schedule, asked.priced(schedule.problem))
    console = Console()
    head = f"{about.title}: {about.paper}" if about else f"{schedule.name}: {asked.name}"
    console.print(Text(head, style="bold"))
    console.print(coloured(picture(timeline, console.width)), soft_wrap=True)
    print_numbers(measure(timeline), "peak act.")


def _sized(asked: Asked, about: Entry) -> Asked:
    """With the ranks, micro-batches and segments of a small example where they are not given."""
    ranks = _SIZE if asked.ranks is None else asked.ranks
    if asked.microbatches is not None or not asked.segments.isdecimal():
        return replace(asked, ranks=ranks, microbatches=asked.microbatches or ranks)
    problem = example(about, ranks, segments=int(asked.segments))
    segments = problem.segments_max if asked.segments == "1" else asked.segments
    return replace(asked, ranks=ranks, microbatches=problem.microbatches, segments=str(segments))
