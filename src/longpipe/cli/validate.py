"""`longpipe validate`: is the schedule in a file right?"""

from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app
from longpipe.errors import DataError
from longpipe.ir import Program, read
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
    try:
        what = read(file.read_text(encoding="utf-8-sig"), segments=segments)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text file: {error}") from error
    check(what, buffers=buffers)
    problem = what.problem
    level = "program" if isinstance(what, Program) else "schedule"
    print(
        f"ok: {level} of {sum(map(len, what.rows))} ops on {problem.ranks} ranks, "
        f"{problem.stages} stages, {len(problem.units())} units "
        f"({problem.microbatches} micro-batches)"
    )
