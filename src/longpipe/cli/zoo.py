"""`longpipe zoo`: every registered schedule."""

import json
from dataclasses import fields
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from longpipe.cli._app import app
from longpipe.schedules import Entry, entries


@app.command(epilog="Example: `longpipe zoo --json`")
def zoo(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the schedules: paper, bubble and peak activations in closed form.

    p ranks, m micro-batches, v chunks, k segments; r is the rank. Times F, I, W are of one full
    micro-batch on one rank; peaks count full micro-batches of a whole rank.
    """
    if as_json:
        print(json.dumps([_facts(entry) for entry in entries()], indent=2))
        return
    table = Table.grid(padding=(0, 2, 1, 0))
    for entry in entries():
        facts = Table.grid(padding=(0, 1, 0, 0))
        facts.add_row("paper", entry.paper)
        facts.add_row("bubble", entry.bubble)
        facts.add_row("peak", entry.peak)
        table.add_row(Text(entry.name, style="bold"), Group(Text(entry.title), facts))
    Console().print(table)


def _facts(entry: Entry) -> dict[str, Any]:
    names = [field.name for field in fields(entry) if field.name != "build"]
    return {name: getattr(entry, name) for name in names}
