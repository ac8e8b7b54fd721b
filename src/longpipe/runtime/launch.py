"""Starts the ranks of a run on this machine, or joins those that torchrun or Slurm has started."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread, current_thread, main_thread
from time import sleep
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from longpipe.errors import ConfigError, LongpipeError, RunError
from longpipe.runtime.rendezvous import Seat, find_seat
from longpipe.runtime.store import PATIENCE_S, Store, prefixed, process_store
from longpipe.runtime.watchdog import POLL_S, Watchdog

_PR_SET_PDEATHSIG = 1
# They log tracebacks through all layers of the launcher for what `_failures` says in a line.
_NOISY = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)
_INTERRUPTED = "longpipe: KeyboardInterrupt"  # what a local rank gives that the user has stopped
_CLOSING_S = 60.0  # the store's host waits so long for the others to end


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the ranks.

    `ranks` None takes as many as have been started, or one. `threads` per rank (None: an equal
    share of the cores). `pin` binds each local rank to a core of its own. A hang is reported
    after `hang_timeout_s`; ranks that do not arrive within `meet_timeout_s` are given up.
    """

    ranks: int | None = None
    device: str = "cpu"
    threads: int | None = None
    pin: bool = False
    hang_timeout_s: float = 300.0
    meet_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class World:
    """What a rank's work gets: who it is, its device, a store for all ranks, its watchdog."""

    rank: int
    ranks: int
    device: torch.device
    store: Store
    watchdog: Watchdog


Work = Callable[..., Any]


def launch(work: Work, *args: object, options: Launch) -> Any:
    """Run `work(world, *args)` on every rank; return what rank 0 (when joining: this rank) gives.

    `work` is a function of an importable module, `args` can be pickled. Under torchrun or srun
    this process becomes one of their ranks. Else local processes are started through torch's
    elastic launcher; a single rank runs right here. Raises RunError that says which rank failed
    and why, and ConfigError if other ranks were started than asked for.
    """
    seat = find_seat(os.environ)
    if seat is not None:
        if options.ranks not in (None, seat.ranks):
            raise ConfigError(
                f"{options.ranks} ranks are configured, but {seat.ranks} were started: "
                "start as many, or change the configuration"
            )
        return _run_rank(seat, work, args, options, reports=None)
    if options.ranks in (None, 1):
        return _run_alone(work, args, options)
    return _start_local(work, args, options)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux only).

    `parent` is the process id of the starter, which may have died before the kernel was asked.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _start_local(work: Work, args: tuple[object, ...], options: Launch) -> Any:
    assert options.ranks is not None
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.ranks,
        run_id=f"longpipe-{uuid4().hex[:8]}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="spawn",
        signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",  # SIGINT: see `_passing_on_sigint`
    )
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with TemporaryDirectory(prefix="longpipe-") as reports, _passing_on_sigint() as passed:
        try:
            results = elastic_launch(config, _local_rank)(os.getpid(), work, args, options, reports)
        except ChildFailedError as error:
            if passed and not any(Path(reports).iterdir()):
                raise KeyboardInterrupt from None
            raise RunError(_failures(error, Path(reports))) from error
    if _INTERRUPTED in results.values():
        raise KeyboardInterrupt
    return results[0]


@contextmanager
def _passing_on_sigint() -> Iterator[list[int]]:
    """Inside, SIGINT is for the ranks, which end their step and write a checkpoint.

    Torch's launcher would kill them after 30 s, and a step over long sequences may take longer.
    """

    passed: list[int] = []

    def pass_on(number: int, _: object) -> None:
        passed.append(number)
        ranks = multiprocessing.active_children()
        if not ranks:
            raise KeyboardInterrupt
        for rank in ranks:
            if rank.pid is not None:
                os.kill(rank.pid, number)

    if current_thread() is not main_thread():  # which has no say over signals
        yield passed
        return
    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield passed
    finally:
        signal.signal(signal.SIGINT, before)


def _local_rank(
    parent: int, work: Work, args: tuple[object, ...], options: Launch, reports: str
) -> Any:
    """A process of `_start_local`."""
    die_with(parent)
    seat = find_seat(os.environ)
    assert seat is not None, "the elastic launcher gives every process a rank"
    try:
        return _run_rank(seat, work, args, options, Path(reports))
    except KeyboardInterrupt:  # a failure would make the launcher end the other ranks at once
        return _INTERRUPTED


def _failures(error: ChildFailedError, reports: Path) -> str:
    """Why the ranks ended: what they wrote, and whether the first to end was killed."""
    rank, failure = error.get_first_failure()
    told = sorted({path.read_text() for path in reports.iterdir()})
    if failure.exitcode < 0:
        told.insert(0, f"rank {rank} was killed by {failure.signal_name()}")
    return "; ".join(told) or f"rank {rank} ended with exit code {failure.exitcode}"


def _run_alone(work: Work, args: tuple[object, ...], options: Launch) -> Any:
    _use_cores(0, 1, options)
    store = process_store()
    device = torch.device(options.device)
    group: Any = prefixed("group", store)
    dist.init_process_group(_backend(device), store=group, rank=0, world_size=1)
    watchdog = Watchdog(prefixed("watchdog", store), 0, 1)
    try:
        return work(World(0, 1, device, store, watchdog), *args)
    finally:
        dist.destroy_process_group()


def _run_rank(
    seat: Seat, work: Work, args: tuple[object, ...], options: Launch, reports: Path | None
) -> Any:
    _use_cores(seat.local_rank, seat.local_ranks, options)
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", seat.local_rank)
        torch.cuda.set_device(device)
    store = seat.store(options.meet_timeout_s)
    group: Any = prefixed("group", store)
    dist.init_process_group(
        _backend(device),
        store=group,
        rank=seat.rank,
        world_size=seat.ranks,
        timeout=timedelta(seconds=max(PATIENCE_S, 2 * options.hang_timeout_s)),
    )

    def report(text: str) -> None:
        if reports is not None:
            (reports / f"rank{seat.rank}").write_text(text)

    watchdog = Watchdog(
        prefixed("watchdog", store),
        seat.rank,
        seat.ranks,
        hang_timeout_s=options.hang_timeout_s,
        on_exit=report,
    )
    watchdog.start()
    earlier = _listen_to_sigterm(watchdog)
    world = World(seat.rank, seat.ranks, device, prefixed("work", store), watchdog)
    try:
        result = work(world, *args)
    except KeyboardInterrupt:  # the user's wish, and no fault: all ranks get it
        _part(seat, store, watchdog)
        watchdog.close()
        raise
    except BaseException as error:
        reason = watchdog.stop_all(f"rank {seat.rank}: {type(error).__name__}: {error}")
        report(reason)
        if reason.startswith(f"rank {seat.rank}") and not _on_purpose(error):
            traceback.print_exc()
        if seat.hosts:  # the others read the reason in this process's store
            sleep(4 * POLL_S)
        raise
    watchdog.progress.activity = "finished"
    _part(seat, store, watchdog)
    watchdog.close()
    signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)
    dist.destroy_process_group()
    return result


def _on_purpose(error: BaseException) -> bool:
    """Whether the text says all; an error from elsewhere needs its traceback."""
    return isinstance(error, LongpipeError) and isinstance(
        error.__cause__, LongpipeError | OSError | None
    )


def _part(seat: Seat, store: Store, watchdog: Watchdog) -> None:
    """The store's host outlives the others, or they would take its end for a fault."""
    watchdog.leave()
    store.set(f"closed/{seat.rank}", "")
    if seat.hosts:
        names = [f"closed/{rank}" for rank in range(seat.ranks)]
        for _ in range(int(_CLOSING_S / 0.05)):
            if store.check(names):
                return
            sleep(0.05)


def _listen_to_sigterm(watchdog: Watchdog) -> Any:
    """Let SIGTERM reach the watchdog even while the main thread waits; return the old handler.

    Python runs signal handlers in the main thread only; the byte that the interpreter writes to
    the wake-up descriptor comes at once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    earlier = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while os.read(reading, 1)[0] != signal.SIGTERM:
            pass
        watchdog.told_to_stop()

    Thread(target=listen, name="longpipe hears SIGTERM", daemon=True).start()
    return earlier


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _use_cores(local_rank: int, local_ranks: int, options: Launch) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(cores) or os.cpu_count() or 1
    if options.pin and cores:
        os.sched_setaffinity(0, {cores[local_rank % count]})
    torch.set_num_threads(options.threads or max(1, count // local_ranks))
