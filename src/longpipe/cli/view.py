"""`longpipe view`: timelines as a page to look into, or as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app
from longpipe.cli._options import Asked, takes_several
from longpipe.cli._panels import panels_of, read_costs
from longpipe.view import (
    Align,
    Panel,
    chrome_trace,
    draw,
    html_page,
    save_bytes,
    save_text,
    to_png,
    to_svg,
)

_SUFFIXES = (".html", ".svg", ".png", ".json")
_Whats = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|PLAN|SCHEDULE",
        help="The folder of a run, or its timelines; a plan's JSON; a schedule that `longpipe zoo` "
        "lists, or a file of one. Several are drawn one above another; a schedule in quotes may "
        'have options of its own, as in "seq1f1b segments=4".',
    ),
]


@app.command(epilog="Example: `longpipe view 1f1b zb-h1 --ranks 4 --microbatches 8`")
@takes_several(_Whats)
def view(
    asked: list[Asked],
    output: Annotated[
        Path,
        typer.Option(
            help="File to write; its suffix says what: .html a page to look into, .svg or .png a "
            "picture, .json a trace for ui.perfetto.dev."
        ),
    ] = Path("view.html"),
    costs_file: Annotated[
        Path | None,
        typer.Option(
            help="Costs that were measured, such as a run's `costs.json`, for plans and schedules "
            "in place of --costs."
        ),
    ] = None,
    align: Annotated[
        Align | None,
        typer.Option(
            help="`time`: one time scale for all. `makespan`: each as wide as the others. If not "
            "given, the first, unless only some are in seconds."
        ),
    ] = None,
) -> None:
    """Write a page with the ranks over time, their memory, and the bubble by cause.

    A run is shown with its plan above what was measured, rank by rank. Plans and schedules are
    simulated, with unit costs if there is no --costs-file. The page needs no network; it zooms and
    searches, also from the keyboard.
    """
    if output.suffix not in _SUFFIXES:
        raise typer.BadParameter(
            f"{output} ends in none of {', '.join(_SUFFIXES)}", param_hint="--output"
        )
    costs = None if costs_file is None else read_costs(costs_file)
    panels = [panel for group, one in enumerate(asked) for panel in panels_of(one, group, costs)]
    _write(output, panels, align)
    for panel in panels:
        note = f" ({panel.note})" if panel.note else ""
        print(f"{panel.timeline.source} {panel.timeline.name}{note}")
    print(f"wrote {output}")


def _write(output: Path, panels: Sequence[Panel], align: Align | None) -> None:
    if output.suffix == ".html":
        save_text(output, html_page(panels, align))
    elif output.suffix == ".svg":
        save_text(output, to_svg(draw(panels, align)))
    elif output.suffix == ".png":
        save_bytes(output, to_png(draw(panels, align)))
    else:
        save_text(output, chrome_trace([panel.timeline for panel in panels]))
