"""Tiny runs for the tests of training: a text, a config, and how to start one."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from longpipe.ir import Timeline
from longpipe.runtime.launch import World
from longpipe.runtime.store import prefixed
from longpipe.train.config import Config
from longpipe.train.config_file import load_config, save_resolved
from longpipe.train.job import prepare
from longpipe.train.run import run_rank, train
from longpipe.view import load_timelines

LONGPIPE = Path(sys.executable).with_name("longpipe")
TORCHRUN = Path(sys.executable).with_name("torchrun")
START_S = 180.0  # for a whole run of processes that import torch, on a busy machine
_SENTENCE = "the king of france and his daughter walked over a long bridge in the rain"


def write_text(folder: Path) -> Path:
    """A few documents of words in random order: some structure, easy to learn."""
    draw, words = random.Random(0), _SENTENCE.split()
    documents = [" ".join(draw.choices(words, k=draw.randint(5, 60))) for _ in range(120)]
    path = folder / "text.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def config(folder: Path, *overrides: str) -> Config:
    """Two ranks, four layers, packed documents of bytes; the run's folder is `folder/run`."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(folder)
    defaults = (
        "model.hidden_size=32", "model.layers=4", "model.heads=2", "model.intermediate_size=64",
        f"data.paths=[{json.dumps(str(text))}]", 'data.separator="\\n\\n"',
        f"data.cache_dir={folder / 'cache'}", "data.sequence_length=64",
        "pipeline.schedule=seq1f1b", "pipeline.microbatches=2", "pipeline.segments=2",
        "optim.lr=0.01", "train.steps=4", f"train.out_dir={folder / 'run'}", "train.device=cpu",
    )  # fmt: skip
    return load_config(None, (*defaults, *overrides))


def run_here(folder: Path, *overrides: str) -> str | None:
    """Train with one rank in this process."""
    one = ("pipeline.ranks=1", "pipeline.partition=balanced")
    return train(prepare(config(folder, *overrides, *one)))


def command(folder: Path, *overrides: str) -> list[str]:
    """The command line of a run on two processes of its own."""
    path = folder / "config.toml"
    save_resolved(config(folder), path)
    return [str(LONGPIPE), "train", str(path), *overrides]


def start(*words: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; it writes to pipes."""
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    )  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=START_S, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    """Without a terminal's width, and without the threads of a busy machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def records(folder: Path, name: str = "run") -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(folder: Path, name: str = "run") -> list[float]:
    """The losses of a run, step by step, to the last bit."""
    return [record["loss"] for record in records(folder, name)]


def timeline(path: Path) -> Timeline:
    """The one timeline of a file."""
    (found,) = load_timelines(path)
    return found


def run_several(world: World, configs: list[Config]) -> None:
    """Train one config after another on the ranks of one start."""
    for number, each in enumerate(configs):
        own = replace(world, store=prefixed(f"run {number}", world.store))
        run_rank(own, prepare(each))
