"""`longpipe train`: a whole run, on local processes or as ranks that torchrun or Slurm started."""

from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app


@app.command(epilog="Example: `longpipe train examples/demo.toml train.steps=20`")
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file; examples/ has some.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as `section.key=value`.")
    ] = None,
) -> None:
    """Train a model as a config says.

    Starts its own processes on this machine, or joins the ranks that torchrun or srun started.
    Goes on from the newest checkpoint in train.out_dir, if there is one.
    """
    import os

    from longpipe.runtime.rendezvous import find_seat
    from longpipe.train.config_file import load_config
    from longpipe.train.job import prepare
    from longpipe.train.run import train as run

    seat = find_seat(os.environ)
    job = prepare(load_config(config, overrides or ()), seat.local_ranks if seat else None)
    report = run(job, joins=seat is not None)
    if report is not None:
        print(report)
