"""Running a function on several gloo processes."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., None], ranks: int, folder: Path, *args: Any) -> None:
    """Call `work(rank, *args)` in `ranks` processes of one gloo group; raises if one raises.

    `folder` must be fresh: it holds the file through which the processes find each other.
    """
    mp.spawn(_enter, (work, ranks, folder / "rendezvous", args), nprocs=ranks)


def _enter(
    rank: int, work: Callable[..., None], ranks: int, store: Path, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        work(rank, *args)
    finally:
        gc.collect()  # errors that a test has caught hold frames, and those the group
        dist.destroy_process_group()
