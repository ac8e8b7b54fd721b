"""Checkpoints under faults: a kill, a damaged file, a full disk. The last whole one survives."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import run_ranks
from saving import assert_holds, leftovers, state_of, tensors_of

from longpipe.data import ByteTokenizer, TextFiles, prepare_tokens
from longpipe.errors import CheckpointError, DataError, RunError
from longpipe.train.checkpoint import clean, latest, resume, save
from longpipe.train.metrics import JsonlSink, StepMetrics

torch.set_num_threads(1)


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_while_saving.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["old"] > 5, "some kills came before the new checkpoint was complete"
    assert seen["new"] > 2, "some after"
    assert seen["half-written"] > 5
    assert seen["random"] == 20


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["manifest.json", ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_file_is_named_with_the_previous_whole_checkpoint(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    for step in (2, 4, 6):
        save(tmp_path, tensors_of(step), state_of(step), keep=3)
    damage(tmp_path / "step-00000006" / name)
    damage(tmp_path / "step-00000004" / name)
    with pytest.raises(CheckpointError) as caught:
        resume(tmp_path, tensors_of(0))
    text = str(caught.value)
    assert f"step-00000006/{name}" in text
    assert "newest whole checkpoint is" in text
    assert "step-00000002: set train.fall_back = true" in text

    held = tensors_of(0)
    resumed = resume(tmp_path, held, fall_back=True)
    assert resumed is not None
    assert resumed.state == state_of(2)
    assert_holds(held, 2)
    for step, why in zip((6, 4), resumed.passed_over, strict=True):
        assert f"step-0000000{step}/{name}" in why


def test_a_run_that_fell_back_keeps_what_it_writes(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, tensors_of(step), state_of(step), keep=2)
    truncate(tmp_path / "step-00000004" / "__0_0.distcp")
    save(tmp_path, tensors_of(3), state_of(3), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    save(tmp_path, tensors_of(4), state_of(4), keep=1)
    held = tensors_of(0)
    assert resume(tmp_path, held) is not None
    assert_holds(held, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_if_nothing_is_whole_that_is_said(tmp_path: Path) -> None:
    path = save(tmp_path, tensors_of(2), state_of(2))
    truncate(path / ".metadata")
    for fall_back in (False, True):
        with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole"):
            resume(tmp_path, tensors_of(0), fall_back=fall_back)


def test_leftovers_do_not_count_and_are_cleaned(tmp_path: Path) -> None:
    whole = save(tmp_path, tensors_of(2), state_of(2))
    shutil.copytree(whole, tmp_path / "step-00000009.tmp-abc")
    (tmp_path / "step-notes").mkdir()
    assert latest(tmp_path) == whole
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-notes"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_step_two_survives(folder: Path, text: str) -> None:
    assert "checkpoint of step 4 could not be written" in text
    assert "bytes are free there; the newest whole checkpoint is still" in text
    assert "No space left on device" in text or "File too large" in text
    assert "step-00000002. Free some space" in text
    assert not leftovers(folder)
    held = tensors_of(0)
    resumed = resume(folder, held)
    assert resumed is not None
    assert_holds(held, 2)


def test_a_full_disk_leaves_the_previous_checkpoint_whole(small_disk: Path) -> None:
    save(small_disk, tensors_of(2), state_of(2))
    with pytest.raises(CheckpointError) as caught:
        save(small_disk, tensors_of(4, size=100_000), state_of(4))
    assert_step_two_survives(small_disk, str(caught.value))
    save(small_disk, tensors_of(4), state_of(4))


def test_a_disk_that_fills_up_at_any_byte_is_survived(small_disk: Path) -> None:
    """Leaves room for less and less, so that each file of the checkpoint is the one that fails."""
    save(small_disk, tensors_of(2), state_of(2))
    filler = small_disk / "filler"
    failures = 0
    for free_bytes in range(0, 40_960, 4096):
        used = 512 * 1024 - shutil.disk_usage(small_disk).free
        filler.write_bytes(b"\0" * (512 * 1024 - used - free_bytes))
        try:
            path = save(small_disk, tensors_of(4), state_of(4))
        except CheckpointError as error:
            failures += 1
            if "cannot be made" not in str(error):
                assert_step_two_survives(small_disk, str(error))
        else:
            shutil.rmtree(path)
        filler.unlink()
    assert 2 <= failures < 10


def test_a_file_size_limit_is_reported_like_a_full_disk(tmp_path: Path) -> None:
    save(tmp_path, tensors_of(2), state_of(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError) as caught:
            save(tmp_path, tensors_of(4, size=100_000), state_of(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_step_two_survives(tmp_path, str(caught.value))


def _fill_on_ranks(rank: int, folder: Path) -> None:
    """Only rank 1 cannot write its part, yet both ranks raise."""
    small = {f"model.{rank}.weight": torch.zeros(8)}
    group = dist.group.WORLD
    save(folder, small, state_of(2), group=group)
    large = {f"model.{rank}.weight": torch.zeros(60_000)}
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(CheckpointError, match="step 4 could not be written") as caught:
        save(folder, large, state_of(4), group=group)
    assert "Its tensors take 480000 bytes" in str(caught.value)
    dist.barrier()
    assert not leftovers(folder)
    resumed = resume(folder, small, group=group)
    assert resumed is not None
    assert resumed.state == state_of(2)


def test_a_rank_that_cannot_write_is_told_to_all(tmp_path: Path) -> None:
    run_ranks(_fill_on_ranks, 2, tmp_path, tmp_path / "run")


def test_a_full_disk_stops_the_token_cache_cleanly(small_disk: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("x" * 600_000)
    with pytest.raises(DataError, match=r"No space left on device.*data\.cache_dir"):
        prepare_tokens(TextFiles((text,)), ByteTokenizer(), small_disk / "cache")
    assert list((small_disk / "cache").iterdir()) == []


def test_a_full_disk_stops_the_metrics_with_a_clear_message(small_disk: Path) -> None:
    sink = JsonlSink(small_disk / "metrics.jsonl")
    (small_disk / "filler").write_bytes(b"\0" * (shutil.disk_usage(small_disk).free))
    metrics = StepMetrics(1, 2.0, 1.0, 1e-3, 100, 1.0, 1e9, 1)
    with pytest.raises(RunError, match="step 1 cannot be logged: No space left"):
        sink.write(metrics)


def test_ranks_that_write_on_disks_of_their_own_are_told(tmp_path: Path) -> None:
    """Such a checkpoint would look whole, and could never be read."""
    run_ranks(save_on_own_disk, 2, tmp_path, tmp_path)


def save_on_own_disk(rank: int, folder: Path) -> None:
    own = folder / f"disk{rank}"
    own.mkdir()
    os.chdir(own)
    tensors = {f"model.{rank}.weight": torch.ones(4)}
    with pytest.raises(CheckpointError, match=r"rank 1 has written .* a disk that all ranks share"):
        save(Path("run"), tensors, state_of(2), group=dist.group.WORLD)
    assert latest(Path("run")) is None
