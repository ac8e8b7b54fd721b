"""The `longpipe` command. A verb is a file of this folder; dropping one in is enough.

Importing this module imports every verb, so a verb imports torch only inside its function.
"""

import importlib
import os
import pkgutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"longpipe {version('longpipe')}")
        raise typer.Exit


@app.callback()
def longpipe(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train language models on long sequences over a pipeline of devices, exactly."""


def main() -> None:
    """Run the command line; a reader that has seen enough (`| head`) ends it quietly."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is buffered still would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not _module.name.startswith("_") and _module.name != "main":
        importlib.import_module(f"longpipe.cli.{_module.name}")
