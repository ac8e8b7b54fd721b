"""`longpipe doctor`: what this machine and its torch can do, and what is missing."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from longpipe.cli._app import app

if TYPE_CHECKING:
    from longpipe.cli._checks import Check

_STYLES = {"ok": "green", "missing": "yellow", "fault": "red"}


@app.command(epilog="Example: `longpipe doctor --json`")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try what training needs: torch, devices, kernels, and processes that meet.

    Exits with 0 if training can run here, with 1 if not.
    """
    from longpipe.cli._checks import checks

    console = Console(highlight=False)
    found = []
    for check in checks():
        found.append(check)
        if not as_json:
            console.print(_line(check), soft_wrap=True)
    able = all(check.state != "fault" for check in found)
    if as_json:
        print(json.dumps({"ok": able, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        verdict = "longpipe can train here." if able else "longpipe cannot train here yet."
        console.print(Text(verdict, style="bold"))
    if not able:
        raise typer.Exit(1)


def _line(check: "Check") -> Text:
    advice = f" ({check.advice})" if check.advice else ""
    return Text.assemble(
        (f"{check.state:8}", _STYLES[check.state]), f"{check.name:24}", check.found, (advice, "dim")
    )
