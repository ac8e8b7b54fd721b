"""Real processes: one rank raises, is killed, is stopped or hangs; all of them end and say why."""

import time
from pathlib import Path

import pytest
from fault_work import faulty_steps, slow_in_setup, stopped_in_setup

from longpipe.errors import RunError
from longpipe.runtime.launch import Launch, launch
from longpipe.runtime.processes import Identity, State
from longpipe.runtime.watchdog import GRACE_S, POLL_S, SILENT_S

HANG_TIMEOUT_S = 3.0
START_S = 60.0  # until the fault, on a busy machine
ENDS_S = {
    "raise": POLL_S + SILENT_S + GRACE_S,
    "kill": POLL_S + SILENT_S + GRACE_S,
    "stop": HANG_TIMEOUT_S + SILENT_S + GRACE_S + 2 * POLL_S,
    "hang": HANG_TIMEOUT_S + SILENT_S + GRACE_S + 2 * POLL_S,
}
SAYS = {
    "raise": "ValueError: a bad number",
    "kill": "died",
    "stop": "rank {culprit} is stopped by a signal",
    "hang": "works, since",
}


def alive(folder: Path) -> list[int]:
    """Ranks' processes that still run (one that nobody has reaped yet does not)."""
    pids = [int(text) for path in folder.glob("*.pid") if (text := path.read_text())]
    own = Identity.own()
    return [pid for pid in pids if Identity.of(pid).state(own) is not State.GONE]


@pytest.mark.parametrize("culprit", [0, 1])
@pytest.mark.parametrize("fault", ["raise", "kill", "stop", "hang"])
def test_all_ranks_end_and_the_message_names_the_cause(fault, culprit, tmp_path):
    begin_s = time.monotonic()
    options = Launch(ranks=2, threads=1, hang_timeout_s=HANG_TIMEOUT_S)
    with pytest.raises(RunError) as raised:
        launch(faulty_steps, fault, culprit, str(tmp_path), options=options)
    assert time.monotonic() - begin_s < START_S + ENDS_S[fault]
    assert len(list(tmp_path.glob("*.pid"))) == 2
    assert not alive(tmp_path), "a process outlives the run"
    text = str(raised.value)
    assert f"rank {culprit}" in text
    assert SAYS[fault].format(culprit=culprit) in text
    assert f"({culprit}F" in text, f"the culprit's op is not named: {text}"
    if fault != "raise":
        assert f"from rank {culprit}" in text, f"the message waited for is not named: {text}"


def test_a_rank_that_is_stopped_while_nobody_waits_ends_the_run(tmp_path):
    begin_s = time.monotonic()
    options = Launch(ranks=2, threads=1, hang_timeout_s=HANG_TIMEOUT_S)
    with pytest.raises(RunError, match=r"rank 0 is stopped by a signal.*preparing the data"):
        launch(stopped_in_setup, 0, str(tmp_path), options=options)
    assert time.monotonic() - begin_s < START_S + ENDS_S["stop"]
    assert not alive(tmp_path), "a process outlives the run"


def test_a_rank_that_takes_its_time_outside_steps_is_left_alone():
    options = Launch(ranks=2, threads=1, hang_timeout_s=HANG_TIMEOUT_S)
    assert launch(slow_in_setup, HANG_TIMEOUT_S, options=options) == "done"
