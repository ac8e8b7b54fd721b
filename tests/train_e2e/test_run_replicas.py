"""Stages on two ranks each: the run is that of one rank per stage, and goes on after a kill."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small import START_S, command, config, losses, run, run_here, run_several, start, write_text
from test_run_resume import checkpoints, until

from longpipe.model.hf import tensor_files
from longpipe.runtime.launch import Launch, launch
from longpipe.train.config import Config

EXACT = ("train.precision=float64", "train.steps=3", "optim.clip_norm=0.1")
SIZE = ("pipeline.microbatches=4",)
LAYOUTS = {
    "1f1b": ("pipeline.segments=1",),
    "dualpipe": ("pipeline.segments=1",),
    "dualpipe, not waiting": (
        "pipeline.segments=1", "optim.post_validation=true", "optim.post_validation_after=0",
    ),
    "seq-dualpipe": ("pipeline.segments=3", "pipeline.partition=[1, 3]"),
    "dualpipe-v": ("pipeline.segments=1", "pipeline.chunks=2"),
    "seq-dualpipe-v": ("pipeline.segments=2", "pipeline.chunks=2"),
}  # fmt: skip
TIED = ("model.tie_embeddings=true",)


def layout(folder: Path, name: str) -> Config:
    """The config of one schedule, with a folder of its own."""
    own = (f"pipeline.schedule={name.partition(',')[0]}", f"train.out_dir={folder / name}")
    return config(folder, *EXACT, *SIZE, *TIED, *LAYOUTS[name], *own)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The exported model; every tensor is in one of its files."""
    found = {}
    for name, file in tensor_files(folder / "model").items():
        with safe_open(folder / "model" / file, framework="pt") as tensors:
            found[name] = tensors.get_tensor(name)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each schedule trained on two ranks, and the unsplit model on one."""
    folder = tmp_path_factory.mktemp("replicas")
    write_text(folder)
    whole = ("pipeline.schedule=gpipe", "pipeline.segments=1", f"train.out_dir={folder / 'whole'}")
    run_here(folder, *EXACT, *SIZE, *TIED, *whole)
    configs = [layout(folder, name) for name in LAYOUTS]
    launch(run_several, configs, options=Launch(ranks=2, threads=1))
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_and_weights_are_those_of_one_rank(folder: Path, name: str) -> None:
    """The gradients of both copies of a stage are summed, and counted once in the norm."""
    assert losses(folder, name) == pytest.approx(losses(folder, "whole"), rel=1e-10)
    expected, found = weights(folder / "whole"), weights(folder / name)
    assert found.keys() == expected.keys()
    for parameter, weight in expected.items():
        torch.testing.assert_close(found[parameter], weight, rtol=1e-8, atol=1e-10)


def test_a_checkpoint_holds_each_parameter_once(folder: Path) -> None:
    """Its files are as large as those of a run without copies, but for their metadata."""
    sizes = {
        name: sum(path.stat().st_size for path in checkpoints_of(folder / name))
        for name in ("1f1b", "dualpipe")
    }
    assert sizes["dualpipe"] == pytest.approx(sizes["1f1b"], rel=0.05)


def checkpoints_of(folder: Path) -> list[Path]:
    """The tensor files of the last checkpoint of a run."""
    return list((folder / "checkpoints" / "step-00000003").glob("*.distcp"))


def test_another_layout_goes_on_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    """One rank without copies takes the fourth step as if it had taken the three before."""
    whole = ("pipeline.schedule=gpipe", "pipeline.segments=1", "train.steps=4")
    for name in ("dualpipe", "whole"):
        shutil.copytree(folder / name, tmp_path / name)
        run_here(folder, *EXACT, *SIZE, *TIED, *whole, f"train.out_dir={tmp_path / name}")
    expected = losses(tmp_path, "whole")
    assert len(expected) == 4
    assert losses(tmp_path, "dualpipe") == pytest.approx(expected, rel=1e-10)


def test_a_killed_run_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """The copies of a stage are equal in every bit, so it does not matter whose was written."""
    settings = (
        "train.steps=8", "train.checkpoint_every=1", "pipeline.schedule=dualpipe",
        "pipeline.segments=1", *SIZE,
    )  # fmt: skip
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    for folder in (quiet, killed):
        folder.mkdir()
    assert run(*command(quiet, *settings)).returncode == 0
    process = start(*command(killed, *settings))
    until(lambda: bool(checkpoints(killed, "step-0000000[2-7]")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=START_S)
    done = run(*command(killed, *settings))
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    assert losses(killed) == losses(quiet)
