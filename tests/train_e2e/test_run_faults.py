"""Faults of a run: each ends with a message that says what, where and what to do, or goes on."""

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small import LONGPIPE, config, losses, records, run, run_here, write_text
from typer.testing import CliRunner

from longpipe.cli.main import app
from longpipe.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LongpipeError,
    ProblemError,
    RunError,
)
from longpipe.model import DecoderConfig, make_stage
from longpipe.model.hf import save_stage, write_config
from longpipe.train.job import prepare
from longpipe.train.lock import sole_run

DIVERGES = ("optim.lr=1e38", "train.precision=float32", "optim.clip_norm=0", "train.steps=4")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    write_text(tmp_path)
    with pytest.raises(RunError) as caught:
        run_here(tmp_path, *DIVERGES, "train.checkpoint_every=1")
    text = str(caught.value)
    assert text.startswith("step 2: loss nan, gradient norm nan, first on rank 0 in the gradient")
    assert "step-00000001, is complete" in text
    assert 'set train.nan_policy = "skip"' in text


def test_an_update_that_is_not_finite_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path)
    run_here(tmp_path, *DIVERGES, "train.nan_policy=skip")
    assert [record["loss"] is None for record in records(tmp_path)] == [False, True, True, True]
    assert "step 3: loss nan" in capsys.readouterr().out


def test_a_wrong_key_names_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[train]\nstep = 4\n[data]\npaths = ["x"]\n[model]\nhf_config = "y"\n')
    found = CliRunner().invoke(app, ["train", str(path)])
    assert found.exit_code == 1
    assert "unknown key train.step: did you mean train.steps?" in found.output


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (("pipeline.cuts=even", "pipeline.segments=3"), ConfigError, "63 or 66"),
        (("pipeline.cut_multiple=24",), ConfigError, "48 or 72"),
        (("pipeline.schedule=zb-v", "pipeline.segments=1"), ProblemError, "set chunks=2"),
        (("pipeline.schedule=seq1f1",), ProblemError, "did you mean seq1f1b"),
        (("pipeline.chunks=2", "pipeline.schedule=interleaved"), ProblemError, "segments=1"),
        (("pipeline.schedule=mine.txt",), DataError, "there is no file mine.txt"),
        (("pipeline.group=2",), ProblemError, "seq1f1b has no option group: leave it out"),
        (("model.vocab_size=100",), ConfigError, "the data has ids up to 256"),
        (("train.device=cuda",), ConfigError, "longpipe doctor"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    tmp_path: Path, settings: tuple[str, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        prepare(config(tmp_path, *settings))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("rows", "settings", "says"),
    [
        ("r0: 0F0 0B0\nr1: 1F0 1B0", (), "microbatches = 1 .not 2"),
        ("r0: 0F0 0F1 0B0 0B1\nr1: 1B0 1F0 1F1 1B1", (), "1B0 comes before 1F0"),
        (
            "r0: 0F0 0F1 0B0 0B1\nr1: 1F0 1F1 1B0 1B1",
            ("pipeline.group=2",),
            "leave out pipeline.gr",
        ),
    ],
)
def test_a_written_order_that_cannot_run_is_explained(
    tmp_path: Path, rows: str, settings: tuple[str, ...], says: str
) -> None:
    path = tmp_path / "order.txt"
    microbatches = 2 if "F1" in rows else 1
    path.write_text(f"# ir 1 | mine ranks=2 microbatches={microbatches}\n{rows}\n")
    asked = (f"pipeline.schedule={path}", "pipeline.segments=1", *settings)
    with pytest.raises(LongpipeError, match=says):
        prepare(config(tmp_path, *asked))


@pytest.mark.parametrize("place", ["text.txt/run", "text.txt"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(
    tmp_path: Path, place: str
) -> None:
    write_text(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.out_dir = .* cannot be used"):
        prepare(config(tmp_path, f"train.out_dir={tmp_path / place}"))


def test_old_checkpoints_are_not_mixed_with_a_new_run(tmp_path: Path) -> None:
    write_text(tmp_path)
    run_here(tmp_path, "train.steps=1")
    with pytest.raises(ConfigError, match=r"another train\.out_dir"):
        run_here(tmp_path, "train.steps=1", "train.resume=false")


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    write_text(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.lock").write_text("process 1 of a run that was killed")
    with sole_run(folder), pytest.raises(RunError, match=rf"process {os.getpid()} .*out_dir"):
        run_here(tmp_path, "train.steps=1")
    run_here(tmp_path, "train.steps=1")
    assert len(losses(tmp_path)) == 1


def test_a_corrupt_token_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path)
    run_here(tmp_path, "train.steps=1", f"train.out_dir={tmp_path / 'first'}")
    (tokens,) = tmp_path.glob("cache/tokens-*/tokens.bin")
    content = bytearray(tokens.read_bytes())
    content[7] ^= 1
    tokens.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"tokens\.bin is corrupt.*made again"):
        run_here(tmp_path, "train.steps=1")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 100 kB: what a full disk does to a checkpoint."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_can_go_on(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_text(tmp_path)
    settings = ("train.checkpoint_every=1", "optim.decay=constant")
    run_here(tmp_path, *settings, "train.steps=4", f"train.out_dir={tmp_path / 'whole'}")
    run_here(tmp_path, *settings, "train.steps=2")
    request.getfixturevalue("small_disk")
    with pytest.raises(CheckpointError, match=r"step 3 could not be written.*step-00000002"):
        run_here(tmp_path, *settings, "train.steps=4")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    run_here(tmp_path, *settings, "train.steps=4")
    assert losses(tmp_path) == losses(tmp_path, "whole")


def test_a_failing_rank_ends_all_ranks_and_is_named(tmp_path: Path) -> None:
    """The second stage's weights are missing, so rank 1 fails while rank 0 waits for it."""
    model = DecoderConfig(
        hidden=32, layers=4, heads=2, kv_heads=2, head_dim=16, intermediate=64, vocab=257
    )
    weights = tmp_path / "weights"
    save_stage(make_stage(model, [range(4)], 0), weights)
    write_config(model, weights, torch.float32)
    (weights / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: _file(name) for name in _names(model)}})
    )
    write_text(tmp_path)
    path = tmp_path / "config.toml"
    path.write_text(
        f'[model]\nhf_config = "{weights}"\nweights = "{weights}"\n'
        f'[data]\npaths = ["{tmp_path}/text.txt"]\nseparator = "\\n\\n"\nsequence_length = 64\n'
        f'cache_dir = "{tmp_path}/cache"\n[train]\nout_dir = "{tmp_path}/run"\ndevice = "cpu"\n'
    )
    done = run(str(LONGPIPE), "train", str(path))
    assert done.returncode == 1
    assert "rank 1" in done.stderr
    assert "lost.safetensors: cannot be read" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: rank 1: CheckpointError")
    assert "Traceback" not in done.stderr


def _names(model: DecoderConfig) -> list[str]:
    return [name for name, _ in make_stage(model, [range(4)], 0).named_parameters()]


def _file(name: str) -> str:
    last = "layers.3" in name
    return "lost.safetensors" if last else "model.safetensors"
