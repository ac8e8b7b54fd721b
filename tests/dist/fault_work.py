"""A run in which one rank fails in a given way in the middle of its second step."""

import os
import signal
import time
from pathlib import Path

import torch.distributed as dist
from local_step import batches_of, boundary_of
from toy_stages import ToyStage, scale_of

from longpipe.ir import Problem
from longpipe.passes import add_messages
from longpipe.runtime import Executor
from longpipe.runtime.launch import World
from longpipe.runtime.p2p import transport_for
from longpipe.runtime.watchdog import POLL_S, SILENT_S
from longpipe.schedules import build

FORWARDS_BEFORE = 18  # of a stage: one step has 16


class Faulty(ToyStage):
    """The toy, until its forwards run out."""

    fault = ""
    forwards = 0

    def forward(self, x, state, segment):
        self.forwards += 1
        if self.fault and self.forwards == FORWARDS_BEFORE:
            _break(self.fault)
        return super().forward(x, state, segment)


def _break(fault: str) -> None:
    if fault == "raise":
        raise ValueError("a bad number")
    time.sleep(3 * POLL_S)  # a long op: long enough for its place to have been published
    if fault == "hang":
        time.sleep(10_000)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[fault])


def faulty_steps(world: World, fault: str, culprit: int, folder: str) -> None:
    """Two steps of seq1f1b; `culprit` breaks in the second. Each rank leaves its process id."""
    (Path(folder) / f"{world.rank}.pid").write_text(str(os.getpid()))
    problem = Problem(world.ranks, 4, 1, segments=4)
    program = add_messages(build("seq1f1b", problem))
    module = Faulty(world.rank, problem.stages)
    if world.rank == culprit:
        module.fault = fault
    batches = batches_of(problem)
    transport = transport_for(program, world.rank, range(world.ranks), world.device)
    executor = Executor(
        program, world.rank, {world.rank: module}, transport, boundary_of(problem),
        progress=world.watchdog.progress, blame=world.watchdog.blame,
    )  # fmt: skip
    for _ in range(2):
        executor.run_step(batches, scale_of(batches))


def stopped_in_setup(world: World, culprit: int, folder: str) -> None:
    """`culprit` is stopped while no rank waits for it: they work on their own."""
    (Path(folder) / f"{world.rank}.pid").write_text(str(os.getpid()))
    world.watchdog.progress.activity = "preparing the data"
    time.sleep(3 * POLL_S)
    if world.rank == culprit:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(10_000)


def slow_in_setup(world: World, timeout_s: float) -> str:
    """The first rank works for longer than the timeout, and the others wait for it."""
    if world.rank == 0:
        time.sleep(timeout_s + SILENT_S)
    dist.barrier()
    return "done"
