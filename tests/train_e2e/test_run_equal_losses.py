"""Layouts do not change a run: every schedule gives the losses of one rank, to round-off."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small import config, losses, run_here, run_several, write_text

from longpipe import Problem, add_messages, build, to_text, to_torch_csv
from longpipe.passes import add_sharding
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
    "chronos": (
        "pipeline.chunks=2", "pipeline.segments=1", "pipeline.recompute=full",
        "pipeline.recompute_stages=chunk:0",
    ),
    "seq1f1b, full": ("pipeline.segments=3", "pipeline.recompute=full"),
    "seq-zb-h1, selective": (
        "pipeline.segments=3", "pipeline.recompute=selective", "pipeline.recompute_stages=[1]",
    ),
    "order.txt": ("pipeline.segments=2",),
    "program.txt": ("pipeline.segments=1",),
    "torch.csv": ("pipeline.segments=2", "pipeline.chunks=2"),
    "comms.csv": ("pipeline.segments=1", "pipeline.chunks=2"),
}  # fmt: skip
# Orders that somebody has written: the first by hand, in no published order.
FILES: dict[str, Callable[[], str]] = {
    "order.txt": lambda: (
        "# ir 1 | mine ranks=2 microbatches=2 segments=2\n"
        "r0: 0F0 0F0.1 0F1 0I0.1 0F1.1 0I0 0W0.1 0B1.1 0W0 0B1\n"
        "r1: 1F0 1F0.1 1B0.1 1F1 1I0 1F1.1 1I1.1 1W0 1B1 1W1.1\n"
    ),
    "program.txt": lambda: to_text(add_messages(build("1f1b", Problem(2, 2)))),
    "torch.csv": lambda: to_torch_csv(build("seq1f1b-interleaved", Problem(2, 2, 2, 2))),
    "comms.csv": lambda: to_torch_csv(add_messages(add_sharding(build("zb-v", Problem(2, 2, 2))))),
}
EXACT = ("train.precision=float64", "train.steps=3", "optim.clip_norm=0.1")
MODELS = {"untied": (), "tied": ("model.tie_embeddings=true", "model.qk_norm=true")}


def layout(folder: Path, model: str, name: str) -> Config:
    """The config of one layout, with a folder of its own."""
    order = name.partition(",")[0]
    if order in FILES:
        path = folder / order
        path.write_text(FILES[order](), encoding="utf-8")
        order = str(path)
    schedule = f"pipeline.schedule={order}"
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
