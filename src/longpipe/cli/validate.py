"""`longpipe validate`: is the schedule in a file right?"""

from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app
from longpipe.ir import Problem, Program
from longpipe.plan import read_order
from longpipe.validate import validate as check


@app.command(epilog="Example: `longpipe validate schedule.txt`")
def validate(
    file: Annotated[Path, typer.Argument(help="A schedule or program: our text, or torch's CSV.")],
    segments: Annotated[
        int, typer.Option(help="Segments of each micro-batch; torch's CSV does not say.")
    ] = 1,
    buffers: Annotated[
        int, typer.Option(help="Messages that a channel takes before their receive is posted.")
    ] = 0,
) -> None:
    """Check that a file is complete, in an order that can run, and free of deadlock.

    Prints what is in it, or the first fault (rank, position, the ops, what to change) and exits
    with 1. Messages are checked where the file has them.
    """
    what = read_order(file, segments)
    check(what, buffers=buffers)
    problem = what.problem
    level = "program" if isinstance(what, Program) else "schedule"
    print(
        f"ok: {level} of {_count(sum(map(len, what.rows)), 'op')} on "
        f"{_count(problem.ranks, 'rank')}, {_count(problem.stages, 'stage')}, {_work(problem)}"
    )


def _work(problem: Problem) -> str:
    text = _count(problem.microbatches, "micro-batch", "es")
    if problem.segments_max > 1:
        text += f" in {len(problem.units())} segments"
    return text


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
