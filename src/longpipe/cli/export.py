"""`longpipe export`: a schedule as a file for other tools."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app
from longpipe.cli._options import Asked, takes_schedule
from longpipe.ir import Schedule, to_text, to_torch_csv
from longpipe.passes import add_messages
from longpipe.simulate import simulate
from longpipe.view import Panel, chrome_trace, html_page, save_text


class Format(StrEnum):
    """What `--format` takes."""

    TORCH_CSV = "torch-csv"
    TEXT = "text"
    CHROME = "chrome"
    HTML = "html"


@app.command(epilog="Example: `longpipe export 1f1b --ranks 4 --microbatches 8 --output 1f1b.csv`")
@takes_schedule
def export(
    asked: Asked,
    form: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TORCH_CSV,
    lowered: Annotated[
        bool, typer.Option("--lowered", help="With sends and receives; text form only.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="File to write, whole or not at all; else printed.")
    ] = None,
) -> None:
    """Write a schedule as torch's CSV or our text, or its simulation for a trace viewer.

    In torch's CSV, segment k of micro-batch j is torch's microbatch j * segments + k. Costs count
    in the forms `chrome` and `html`.
    """
    if lowered and form is not Format.TEXT:
        raise typer.BadParameter("only the text form holds messages", param_hint="--lowered")
    schedule = asked.schedule()
    if form is Format.TORCH_CSV:
        text = to_torch_csv(schedule)
    elif form is Format.TEXT:
        text = to_text(add_messages(schedule) if lowered else schedule)
    else:
        text = _simulated(asked, schedule, form)
    if output is None:
        print(text, end="")
    else:
        save_text(output, text)


def _simulated(asked: Asked, schedule: Schedule, form: Format) -> str:
    timeline = simulate(schedule, asked.priced(schedule.problem))
    return (
        html_page([Panel(timeline, asked.said())])
        if form is Format.HTML
        else chrome_trace([timeline])
    )
