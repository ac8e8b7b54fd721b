"""Layouts do not change a run: every schedule gives the losses of one rank, to round-off."""

from pathlib import Path

import pytest
from small import config, losses, run_here, run_several, write_text

from longpipe.runtime.launch import Launch, launch
from longpipe.train.config import Config

LAYOUTS = {
    "1f1b": ("pipeline.segments=1",),
    "seq1f1b": ("pipeline.cuts=[30, 20, 14]", "pipeline.segments=3"),
    "seq-zb-h1": ("pipeline.segments=4", "pipeline.partition=[1, 3]"),
    "seq-zb-h1, bounded": (
        "pipeline.schedule=seq-zb-h1", "pipeline.segments=2", "pipeline.weight_queue_bytes=400000",
    ),
    "interleaved": ("pipeline.chunks=2", "pipeline.segments=1"),
    "seq1f1b-interleaved": ("pipeline.chunks=2", "pipeline.segments=3"),
    "zb-v": ("pipeline.chunks=2", "pipeline.segments=1"),
}  # fmt: skip
EXACT = ("train.precision=float64", "train.steps=3", "optim.clip_norm=0.1")
MODELS = {"untied": (), "tied": ("model.tie_embeddings=true", "model.qk_norm=true")}


def layout(folder: Path, model: str, name: str) -> Config:
    """The config of one layout, with a folder of its own."""
    schedule = f"pipeline.schedule={name.partition(',')[0]}"
    out = f"train.out_dir={folder / model / name}"
    return config(folder, *EXACT, *MODELS[model], schedule, *LAYOUTS[name], out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layouts on two ranks, one after another, and the unsplit model on one."""
    folder = tmp_path_factory.mktemp("layouts")
    write_text(folder)
    for model, settings in MODELS.items():
        whole = ("pipeline.schedule=gpipe", "pipeline.segments=1")
        run_here(folder, *EXACT, *settings, *whole, f"train.out_dir={folder / model / 'whole'}")
    configs = [layout(folder, model, name) for model in MODELS for name in LAYOUTS]
    launch(run_several, configs, options=Launch(ranks=2, threads=1))
    return folder


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_are_those_of_one_rank(folder: Path, model: str, name: str) -> None:
    expected = losses(folder, f"{model}/whole")
    assert len(expected) == 3
    assert losses(folder, f"{model}/{name}") == pytest.approx(expected, rel=1e-10)
