"""Starting and joining ranks: torchrun, a plain environment, restarts, and deaths of the host."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_faults import alive

from longpipe.errors import ConfigError
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.watchdog import GRACE_S, POLL_S, STORE_SILENT_S

SCRIPT = str(Path(__file__).parent / "launch_script.py")
ENDS_S = STORE_SILENT_S + GRACE_S + 2 * POLL_S
SLACK_S = 60.0  # a busy machine


def run(command: list[str], **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        **options,
    )  # fmt: skip


def torchrun(folder: Path, mode: str, *flags: str) -> subprocess.Popen[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *flags]
    return run([*start, SCRIPT, mode, str(folder), "2"])


def by_hand(folder: Path, mode: str) -> list[subprocess.Popen[str]]:
    """Two ranks with the environment that a cluster's script would set; rank 0 hosts the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        run([SCRIPT, mode, str(folder), "2"], env=common | {"RANK": str(rank)}) for rank in (0, 1)
    ]


def wait_for(folder: Path, pattern: str, count: int) -> None:
    end_s = time.monotonic() + SLACK_S
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < end_s, f"{count} {pattern} did not appear"
        time.sleep(0.05)


def wait_until_gone(folder: Path, within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while alive(folder):
        assert time.monotonic() < end_s, f"still alive: {alive(folder)}"
        time.sleep(0.1)


def test_joins_the_ranks_of_torchrun(tmp_path):
    process = torchrun(tmp_path, "none1")
    text, _ = process.communicate(timeout=SLACK_S)
    assert process.returncode == 0, text
    assert len(list(tmp_path.glob("*.done"))) == 2


def test_goes_on_after_a_restart_by_torchrun(tmp_path):
    process = torchrun(tmp_path, "restart", "--max-restarts=1")
    text, _ = process.communicate(timeout=2 * SLACK_S)
    assert process.returncode == 0, text
    assert [path.read_text() for path in tmp_path.glob("*.done")] == ["1", "1"]
    assert "rank 1" in text
    assert "died" in text


def test_ranks_end_with_the_launcher_that_they_joined(tmp_path):
    """torchrun's agent hosts the store; without it the ranks must not run on."""
    process = torchrun(tmp_path, "hang1")
    wait_for(tmp_path, "*.pid", 2)
    process.kill()
    wait_until_gone(tmp_path, SLACK_S + ENDS_S)
    process.communicate()


def test_local_ranks_die_with_their_launcher(tmp_path):
    process = run([SCRIPT, "hang1", str(tmp_path), "2"])
    wait_for(tmp_path, "*.pid", 2)
    process.kill()
    wait_until_gone(tmp_path, SLACK_S)
    process.communicate()


@pytest.mark.parametrize("fault", ["kill", "stop", "raise"])
def test_the_others_end_when_the_rank_that_hosts_the_store_fails(fault, tmp_path):
    host, other = by_hand(tmp_path, f"{fault}0")
    text, _ = other.communicate(timeout=SLACK_S + ENDS_S)
    assert other.returncode not in (0, -signal.SIGTERM)
    host.communicate(timeout=SLACK_S)
    assert not alive(tmp_path)
    assert "rank 0" in text
    said = {"kill": "died", "stop": "stopped by a signal", "raise": "ValueError: a bad number"}
    assert said[fault] in text
    if fault != "raise":
        assert "0SEND_F" in text, f"the message waited for is not named: {text}"


def _ranks(world: World) -> tuple[int, str]:
    return world.ranks, world.device.type


def test_a_single_rank_runs_in_this_process():
    assert launch(_ranks, options=Launch()) == (1, "cpu")


def test_other_ranks_than_configured_are_refused(monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 ranks are configured, but 4 were started"):
        launch(_ranks, options=Launch(ranks=2))
