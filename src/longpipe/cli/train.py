"""`longpipe train`: a whole run, on local processes or as ranks that torchrun or Slurm started."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from longpipe.cli._app import app

_INTERRUPTED = 130  # what shells give for SIGINT


@app.command(
    epilog="Example: `longpipe train examples/demo.toml train.steps=20`",
    # Settings that somebody writes as options come here, to be answered with the right form.
    context_settings={"ignore_unknown_options": True},
)
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
    for word in (str(config), *(overrides or ())):
        if word.startswith("-"):
            right = word.lstrip("-") if "=" in word else "train.steps=3"
            raise typer.BadParameter(
                f"{word} is no option: write {right} without dashes, after the file"
            )
    import os

    from torch.distributed.elastic.multiprocessing.api import SignalException

    from longpipe.runtime.rendezvous import find_seat
    from longpipe.train.config_file import load_config
    from longpipe.train.job import prepare
    from longpipe.train.run import train as run

    seat = find_seat(os.environ)
    job = prepare(load_config(config, overrides or ()), seat.local_ranks if seat else None)
    try:
        report = run(job, joins=seat is not None)
    except (KeyboardInterrupt, SignalException):
        raise typer.Exit(_INTERRUPTED) from None
    if report is not None:
        print(report)
        print(_again(config, overrides or (), job.config.train.out_dir, job.config.pipeline.ranks))


def _again(config: Path, overrides: Sequence[str], out_dir: str, ranks: int) -> str:
    """The command that does the same under torchrun, in a folder of its own."""
    torchrun, longpipe = (
        _short(Path(sys.argv[0]).with_name(name)) for name in ("torchrun", "longpipe")
    )
    start = [torchrun, "--standalone", f"--nproc-per-node={ranks}", "--no-python"]
    kept = [text for text in overrides if not text.startswith("train.out_dir")]
    train = [longpipe, "train", str(config), *kept, f"train.out_dir={out_dir}-torchrun"]
    return f"the same under torchrun:\n  {shlex.join(start)} \\\n  {shlex.join(train)}"


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
