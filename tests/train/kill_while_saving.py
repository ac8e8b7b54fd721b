"""Kills a process while it saves, at every point where it touches the file system, then at random.

Run by test_checkpoint_faults as a script, because it forks: the first argument is an empty folder.
After each kill the newest checkpoint must load whole; prints how often it was the old and the new.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from saving import assert_holds, leftovers, state_of, tensors_of

from longpipe.train.checkpoint import clean, resume, save

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}


def in_child(work: Callable[[], None], after_s: float | None = None) -> int:
    """Fork, work, and return the child's status; kill it after a while if asked to."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def save_step(folder: Path, step: int) -> None:
    save(folder, tensors_of(step), state_of(step), keep=2)


def save_and_die(folder: Path, step: int, at: int) -> None:
    """Save, but die by SIGKILL just before the `at`-th touch of the file system."""
    touches = 0

    def hook(event: str, _: object) -> None:
        nonlocal touches
        if event in WATCHED:
            touches += 1
            if touches > at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    save_step(folder, step)


def check(folder: Path) -> int:
    """The newest checkpoint is whole; returns its step."""
    held = tensors_of(0)
    resumed = resume(folder, held)
    assert resumed is not None
    assert not resumed.passed_over
    assert resumed.state == state_of(resumed.state.step)
    assert_holds(held, resumed.state.step)
    return resumed.state.step


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    save_step(folder, 1)
    save_step(folder, 2)
    seen: Counter[str] = Counter()
    step, at, status = 3, 0, signal.SIGKILL
    while status:
        status = in_child(partial(save_and_die, folder, step, at))
        assert status in (0, signal.SIGKILL), status
        newest = check(folder)
        assert newest in (step - 1, step), (newest, step)
        seen["new" if newest == step else "old"] += 1
        seen["half-written"] += bool(leftovers(folder))
        clean(folder)
        assert not leftovers(folder)
        at += 1
        step = newest + 1

    def keep_saving() -> None:
        for later in range(step, step + 10_000):
            save_step(folder, later)

    chance = random.Random(0)
    for _ in range(20):
        in_child(keep_saving, after_s=chance.uniform(0.0, 0.06))
        step = check(folder) + 1
        seen["random"] += 1
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
