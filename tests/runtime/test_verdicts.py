"""Who is to blame, who is where, who disagrees: the runtime's decisions, without processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_step import boundary_of, run_local
from toy_stages import ToyStage

from longpipe.errors import PlanError, RunError
from longpipe.ir import Op, Problem
from longpipe.passes import add_messages
from longpipe.runtime import Executor
from longpipe.runtime.agree import agree, facts_of
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.runtime.processes import Identity, State
from longpipe.runtime.progress import Progress, Wait
from longpipe.runtime.ranks import Places, Sign, Suspects, judge
from longpipe.runtime.rendezvous import Seat, find_seat, first_host
from longpipe.runtime.store import exchange, process_store, tcp_store
from longpipe.schedules import build

NOW_S = 100.0
SILENT_S = 5.0


def sign(place: str, waits_for: str | None = None, on: int | None = None, for_s=30.0) -> Sign:
    return Sign(1, place, waits_for, on, for_s)


def verdict(signs, states=None, silent=()):
    """The verdict of rank 0; ranks in `silent` gave their last sign 20 s ago."""
    places = Places()
    for rank, given in enumerate(signs):
        places.note(rank, given, NOW_S - 20 if rank in silent else NOW_S)
    states = states or dict.fromkeys(range(len(signs)), State.RUNNING)
    return judge(0, places, states, NOW_S, SILENT_S)


def test_the_chain_of_waits_ends_at_the_rank_that_works():
    found = verdict(
        [
            sign("op 3 (0B0)", "1SEND_B0", 1),
            sign("op 4 (1B0)", "2SEND_B0", 2),
            sign("op 1 (2F0)"),
        ]
    )
    assert found.culprit == 2
    for part in ("rank 2 holds it up", "1SEND_B0 from rank 1", "2SEND_B0", "op 1 (2F0), works"):
        assert part in found.text


def test_a_silent_rank_is_to_blame_though_it_said_that_it_waits():
    signs = [sign("op 3", "1SEND_B0", 1), sign("op 4", "2SEND_B0", 2), sign("op 1")]
    found = verdict(signs, silent={1})
    assert found.culprit == 1
    assert "no sign of life for 20 s" in found.text


@pytest.mark.parametrize("state", [State.GONE, State.STOPPED])
def test_a_dead_or_stopped_rank_is_to_blame(state):
    states = {0: State.RUNNING, 1: state, 2: State.RUNNING}
    found = verdict([sign("a", "m", 1), sign("b", "n", 2), sign("c")], states)
    assert found.culprit == 1
    assert str(state) in found.text


def test_ranks_that_wait_for_each_other_are_a_deadlock():
    found = verdict([sign("op 3", "x", 1), sign("op 4", "y", 0)])
    assert found.culprit is None
    assert "rank 0, rank 1 wait for each other" in found.text


def test_in_a_wait_for_all_ranks_the_missing_one_is_to_blame():
    together = sign("sum of gradient norms", "the sum of gradient norms", None)
    found = verdict([together, sign("saving a checkpoint"), together])
    assert found.culprit == 1
    assert verdict([together, together]).culprit is None


def test_progress_in_words():
    progress = Progress()
    assert progress.place() == "starting"
    progress.row, progress.step, progress.position = (Op.parse("0F1.2"),), 3, 0
    progress.step_runs = True
    progress.waiting = Wait("1SEND_B0", 1)
    told = str(Sign.of(progress, 1, 2.0))
    assert told == "at step 3, op 0 (0F1.2), waits for 1SEND_B0 from rank 1, since 2.0 s"
    assert Sign.from_json(Sign.of(progress, 1, 2.0).to_json().encode()).waits_on == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_states_of_a_process():
    own = Identity.own()
    assert own.state(own) is State.RUNNING
    assert Identity.from_json(list(own.to_json())) == own
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    theirs = Identity(own.machine, child.pid, stat[19])
    try:
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert theirs.state(own) is State.STOPPED
        assert Identity("elsewhere", child.pid, stat[19]).state(own) is State.UNKNOWN
    finally:
        child.kill()
        child.wait()
    assert theirs.state(own) is State.GONE
    assert Identity(own.machine, own.pid, "0").state(own) is State.GONE, "a reused number"


TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "host0", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[07-09]", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}  # fmt: skip


def test_seats():
    assert find_seat({}) is None
    assert find_seat(TORCHRUN) == Seat(5, 8, 1, 4, "host0", 29500, attempt=2, hosts=False)
    by_hand = {k: v for k, v in TORCHRUN.items() if "ELASTIC" not in k} | {"RANK": "0"}
    assert find_seat(by_hand).hosts
    assert find_seat(SLURM) == Seat(3, 8, 1, 2, "gpu07", 23456, attempt=0, hosts=False)
    second = find_seat(SLURM | {"SLURM_STEP_ID": "1"})
    assert (second.port, second.step) == (24456, 1), "two steps of a job do not meet"
    assert find_seat(SLURM | {"MASTER_ADDR": "h", "MASTER_PORT": "1"}).address == "h"
    batch_script = {k: v for k, v in SLURM.items() if "STEP" not in k}
    assert find_seat(batch_script) is None, "a batch script is not a task of srun"
    with pytest.raises(RunError, match="MASTER_ADDR"):
        find_seat({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(RunError, match="RANK = 'first' is not a number"):
        find_seat(TORCHRUN | {"RANK": "first"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[3-5]", "n3"), ("a[1,4]-ib,b", "a1-ib"), ("n[01]", "n01")],
)
def test_first_host_of_a_slurm_list(nodes, host):
    assert first_host(nodes) == host


def test_ranks_that_mean_different_things_are_told_so():
    problem = Problem(2, 2, 1, segments=3)
    program = add_messages(build("seq1f1b", problem))
    other = add_messages(build("seq-zb-h1", problem))
    store, errors = process_store(), []

    def work(rank: int) -> None:
        facts = facts_of(other if rank else program, boundary_of(problem))
        try:
            agree(store, rank, 2, facts)
        except RunError as error:
            errors.append(str(error))

    run_ranks(LocalFabric(2), work)
    assert len(errors) == 2
    assert "rank 1 has program 'seq-zb-h1" in errors[0]


def test_wrong_stages_cuts_and_batches_are_refused_before_a_step():
    problem = Problem(2, 2, 1, segments=3)
    program = add_messages(build("seq1f1b", problem))
    transport = LocalFabric(2).transport(0)
    with pytest.raises(RunError, match=r"rank 0 holds stages \[0\]"):
        Executor(program, 0, {1: ToyStage(1, 2)}, transport, boundary_of(problem))
    cuts = boundary_of(Problem(2, 2, 1, segments=2))
    with pytest.raises(PlanError, match="segments by micro-batch"):
        Executor(program, 0, {0: ToyStage(0, 2)}, transport, cuts)
    executor = Executor(program, 0, {0: ToyStage(0, 2)}, transport, boundary_of(problem))
    with pytest.raises(RunError, match="2 micro-batches"):
        executor.run_step((), 1.0)


class Fails(ToyStage):
    def forward(self, x, state, segment):
        if self.last and segment.index == 1:
            raise ValueError("a bad number")
        return super().forward(x, state, segment)


def test_a_failure_names_rank_op_and_cause():
    program = add_messages(build("seq1f1b", Problem(2, 2, 1, segments=3)))
    with pytest.raises(RunError, match=r"rank 1, step 0, op \d+ \(1F0\.1\): ValueError: a bad"):
        run_local(program, stage=Fails)


def test_a_port_that_is_taken_or_silent_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port}, cannot be served here: .* MASTER_PORT"):
            tcp_store("127.0.0.1", port, 2, hosts=True, timeout_s=1.0)
    with pytest.raises(RunError, match=rf"port {port}, does not answer: set MASTER_ADDR"):
        tcp_store("127.0.0.1", port, 2, hosts=False, timeout_s=1.0)


def suspect(state: State, since_s: float, *, left: bool = False) -> int | None:
    """What is found `since_s` after rank 1 has first been seen in a state."""
    places, suspects = Places(), Suspects()
    if left:
        places.left.add(1)
    states = {0: State.RUNNING, 1: state}
    times = {"timeout_s": 30.0, "silent_s": 30.0}
    assert suspects.find(places, states, NOW_S, read_s=NOW_S - 1, **times) is None
    now_s = NOW_S + since_s
    return suspects.find(places, states, now_s, read_s=now_s, **times)


def test_a_lifeless_rank_is_found_though_nobody_waits():
    assert suspect(State.GONE, 1.0) == 1
    assert suspect(State.GONE, 1.0, left=True) is None, "it ended as it should"
    assert suspect(State.STOPPED, 1.0) is None, "a debugger may have stopped it for a moment"
    assert suspect(State.STOPPED, 31.0) == 1
    assert suspect(State.RUNNING, 1000.0) is None, "honest work takes as long as it takes"


def test_an_exchange_waits_longer_than_the_store():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = tcp_store("127.0.0.1", port, 2, hosts=True, timeout_s=0.5)
    late = tcp_store("127.0.0.1", port, 2, hosts=False, timeout_s=0.5)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(exchange, host, "facts", 0, 2, "a")
        time.sleep(1.0)
        assert exchange(late, "facts", 1, 2, "b") == ["a", "b"]
        assert first.result() == ["a", "b"]
