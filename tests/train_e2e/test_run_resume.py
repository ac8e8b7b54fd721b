"""A run that was killed goes on as if nothing had happened: the same losses, to the last bit."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small import START_S, command, losses, run, run_here, start, write_text

from longpipe.train.checkpoint import latest

STEPS = 10
SETTINGS = (f"train.steps={STEPS}", "train.checkpoint_every=1", "pipeline.schedule=seq-zb-h1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(*command(folder, *SETTINGS))
    assert done.returncode == 0, done.stderr
    return losses(folder)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in path.read_text().split()]
    return [
        child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a moment in the life of a run."""
    deadline_s = time.monotonic() + START_S
    while not happened():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def checkpoints(folder: Path, pattern: str) -> list[Path]:
    """Folders of checkpoints with such a name."""
    return list((folder / "run" / "checkpoints").glob(pattern))


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    """SIGKILL one of the two ranks; the others must end by themselves."""
    os.kill(children(process.pid)[-1], signal.SIGKILL)


def kill_everything(process: subprocess.Popen[str]) -> None:
    """SIGKILL the whole run at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)


def assert_resumes(folder: Path, undisturbed: list[float]) -> None:
    """The run goes on to its end, with the losses of the undisturbed one."""
    newest = latest(folder / "run" / "checkpoints")
    assert newest is not None
    done = run(*command(folder, *SETTINGS))
    assert done.returncode == 0, done.stderr
    assert f"going on after step {int(newest.name.removeprefix('step-'))}" in done.stdout
    assert losses(folder) == undisturbed


def test_a_killed_worker_ends_the_run_with_its_name(
    tmp_path: Path, undisturbed: list[float]
) -> None:
    process = start(*command(tmp_path, *SETTINGS))
    until(lambda: bool(checkpoints(tmp_path, "step-0000000[2-9]")), process)
    kill_a_worker(process)
    _, errors = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert "SIGKILL" in errors or "died" in errors
    assert_resumes(tmp_path, undisturbed)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, undisturbed: list[float]
) -> None:
    process = start(*command(tmp_path, *SETTINGS))
    until(lambda: bool(checkpoints(tmp_path, "step-0000000[2-9]")), process)
    until(lambda: bool(checkpoints(tmp_path, "step-000000*.tmp-*")), process)
    kill_everything(process)
    process.communicate(timeout=START_S)
    assert_resumes(tmp_path, undisturbed)
    assert not checkpoints(tmp_path, "*.tmp-*"), "what was half-written is cleaned up"


def test_another_number_of_ranks_may_go_on(tmp_path: Path) -> None:
    write_text(tmp_path)
    exact = ("train.precision=float64", "optim.decay=constant")
    whole = run_here(tmp_path, *exact, "train.steps=4", f"train.out_dir={tmp_path / 'whole'}")
    assert whole is not None
    run_here(tmp_path, *exact, "train.steps=2")
    done = run(*command(tmp_path, *exact, "train.steps=4"))
    assert done.returncode == 0, done.stderr
    assert "the configuration is not the one" in done.stdout
    assert losses(tmp_path) == pytest.approx(losses(tmp_path, "whole"), rel=1e-10)


def test_a_damaged_checkpoint_is_named_and_can_be_passed_over(tmp_path: Path) -> None:
    write_text(tmp_path)
    run_here(tmp_path, "train.steps=3", "train.checkpoint_every=1")
    expected = losses(tmp_path)
    (damaged,) = checkpoints(tmp_path, "step-00000003/__0_0.distcp")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(Exception, match=r"step-00000003.*train.fall_back = true"):
        run_here(tmp_path, "train.steps=3", "train.checkpoint_every=1")
    run_here(tmp_path, "train.steps=3", "train.checkpoint_every=1", "train.fall_back=true")
    assert losses(tmp_path) == expected


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["terminal", "launcher"])
def test_ctrl_c_stops_after_a_step_with_a_checkpoint(
    tmp_path: Path,
    undisturbed: list[float],
    send: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch's launcher would leave the ranks no time: however long a step, they must have it
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0")
    process = start(*command(tmp_path, *SETTINGS))
    until(lambda: bool(checkpoints(tmp_path, "step-0000000[3-9]")), process)
    send(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=START_S)
    assert process.returncode == 130
    assert "as asked; the same command goes on from it" in output
    assert "Traceback" not in errors
    assert_resumes(tmp_path, undisturbed)
