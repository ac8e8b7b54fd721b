"""Numbers in the prose are those of the code."""

from pathlib import Path

from longpipe.runtime import watchdog
from longpipe.runtime.rendezvous import find_seat
from longpipe.train import interrupt, trainer
from longpipe.train.config import TrainConfig

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    """Text of a page, in one line."""
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


def test_times_until_all_processes_have_ended() -> None:
    """The bounds in the docstring of `watchdog`, in seconds."""
    poll_s, silent_s, grace_s = watchdog.POLL_S, watchdog.SILENT_S, watchdog.GRACE_S
    store_s, hang_s = watchdog.STORE_SILENT_S, TrainConfig().hang_timeout_s
    late_s = silent_s + grace_s + 2 * poll_s
    text = page("cluster.md")
    assert f"ranks on one machine | {poll_s + grace_s:g} s |" in text
    assert f"ranks on several machines | {poll_s + silent_s + grace_s:g} s |" in text
    assert f"`train.hang_timeout_s` + {late_s:g} s ({hang_s + late_s:g} s by default) |" in text
    assert f"elsewhere) | {store_s + grace_s + 2 * poll_s:g} s |" in text
    assert f"stop by itself within {grace_s:g} s" in text
    assert f"published nothing for {silent_s:g} s" in text


def test_where_the_tasks_of_a_slurm_job_meet() -> None:
    environment = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "70007",
        "SLURM_STEP_ID": "3",
        "SLURM_STEP_NODELIST": "n[3-4]",
    }
    seat = find_seat(environment)
    assert seat is not None
    assert (seat.address, seat.port) == ("n3", 20_000 + (70_007 + 1000 * 3) % 20_000)
    assert "port 20000 + ((job id + 1000 × step id) mod 20000)" in page("cluster.md")


def test_other_numbers() -> None:
    assert f"A second Ctrl-C, {interrupt._SAME_S:g} s later" in page("cluster.md")
    assert f"one of the last {trainer._KEPT_TIMELINES} that" in page("measuring.md")
