"""`longpipe trace`: what a run did, beside what was predicted."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from longpipe.cli._app import app
from longpipe.cli._numbers import numbers_json, print_numbers
from longpipe.cli._options import AsJson
from longpipe.cli._picture import coloured
from longpipe.simulate import measure
from longpipe.view import chrome_trace, compare, html_page, load_timelines, of_run, save_text


@app.command(epilog="Example: `longpipe trace predicted.json measured.json --html trace.html`")
def trace(
    files: Annotated[list[Path], typer.Argument(help="Timelines that a run has written.")],
    html: Annotated[Path | None, typer.Option(help="Write one HTML page here.")] = None,
    chrome: Annotated[
        Path | None, typer.Option(help="Write a trace for ui.perfetto.dev here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lay timelines above each other: the first is what the others are compared with."""
    timelines = [timeline for path in files for timeline in load_timelines(path)]
    if html is not None:
        save_text(html, html_page(of_run(timelines)))
    if chrome is not None:
        save_text(chrome, chrome_trace(timelines))
    found = [measure(timeline) for timeline in timelines]
    if as_json:
        records = [
            {"name": timeline.name, "source": timeline.source}
            | numbers_json(metrics, "peak_memory")
            for timeline, metrics in zip(timelines, found, strict=True)
        ]
        print(json.dumps(records, indent=2))
        return
    console = Console()
    console.print(coloured(compare(timelines, console.width)), soft_wrap=True)
    for timeline, metrics in zip(timelines, found, strict=True):
        console.print(f"\n{timeline.source}", style="bold", highlight=False)
        print_numbers(metrics, "peak mem.")
