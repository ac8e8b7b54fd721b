"""Runs on four ranks whose gradients are disturbed at chosen steps, and what they leave behind."""

import io
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import torch
from small import records
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from longpipe.errors import RunError
from longpipe.runtime.launch import World
from longpipe.runtime.store import prefixed
from longpipe.train.checkpoint import latest
from longpipe.train.config import Config
from longpipe.train.job import prepare
from longpipe.train.part import Part
from longpipe.train.run import run_rank

INTERRUPT = "Ctrl-C"
Disturbance = float | str  # a factor on all gradients of a rank, or INTERRUPT


@dataclass(frozen=True)
class Start:
    """One start of a run; `disturbed` gives, by step, a rank and what happens to it."""

    config: Config
    disturbed: Mapping[int, tuple[int, Disturbance]] = field(default_factory=dict)
    first: int = 1


@contextmanager
def disturbances(start: Start, rank: int) -> Iterator[None]:
    """Inside, this rank's gradients are disturbed before those on several ranks are summed."""
    steps, undisturbed = count(start.first), Part.sum_tied

    def sum_tied(part: Part) -> None:
        who, what = start.disturbed.get(next(steps), (-1, 1.0))
        if who == rank and isinstance(what, str):
            os.kill(os.getpid(), signal.SIGINT)
        elif who == rank:
            for parameter in part.parameters.values():
                parameter.grad.mul_(what)
        undisturbed(part)

    Part.sum_tied = sum_tied
    try:
        yield
    finally:
        Part.sum_tied = undisturbed


def run_disturbed(world: World, starts: list[Start]) -> None:
    """One run after another; what each says is kept in its folder as `stdout`, errors too."""
    torch.set_num_threads(1)
    for number, start in enumerate(starts):
        own = replace(world, store=prefixed(f"run {number}", world.store))
        folder, said = Path(start.config.train.out_dir), io.StringIO()
        with redirect_stdout(said), disturbances(start, world.rank):
            try:
                with suppress(KeyboardInterrupt):
                    run_rank(own, prepare(start.config))
            except RunError as error:
                said.write(f"error: {error}\n")
        with (folder / f"stdout{world.rank}").open("a") as file:
            file.write(said.getvalue())


def said(folder: Path, rank: int = 0) -> str:
    """What a rank of a run has said, over all starts."""
    return (folder / f"stdout{rank}").read_text()


def left_behind(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the newest checkpoint: weights and optimizer state."""
    newest = latest(folder / "checkpoints")
    assert newest is not None, f"{folder} has no checkpoint: {said(folder)}"
    whole = folder / f"{newest.name}.pt"
    dcp_to_torch_save(newest, whole)
    found: dict[str, torch.Tensor] = torch.load(whole)
    return found


def assert_same(one: Path, other: Path) -> None:
    """The same steps with the same numbers, weights and optimizer state, to the last bit."""
    names = ("step", "loss", "grad_norm", "lr")
    steps, others = (
        [[record[name] for name in names] for record in records(folder.parent, folder.name)]
        for folder in (one, other)
    )
    assert steps == others
    tensors, twins = left_behind(one), left_behind(other)
    assert tensors.keys() == twins.keys()
    assert any(name.endswith("exp_avg_sq") for name in tensors)
    different = [name for name in tensors if not torch.equal(tensors[name], twins[name])]
    assert not different, different
