"""Started by tests, under torchrun or by hand: `launch_script.py MODE FOLDER RANKS`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from fault_work import faulty_steps

from longpipe.runtime.launch import Launch, World, launch


def work(world: World, mode: str, folder: str) -> int:
    """`restart`: rank 1 is killed in the first attempt; else MODE is a fault of rank `MODE[-1]`."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if mode == "restart":
        mode = "kill1" if attempt == "0" else "none1"
    fault, culprit = mode[:-1], int(mode[-1])
    faulty_steps(world, "" if fault == "none" else fault, culprit, folder)
    (Path(folder) / f"{world.rank}.done").write_text(attempt)
    return world.ranks


if __name__ == "__main__":
    options = Launch(ranks=int(sys.argv[3]), threads=1, hang_timeout_s=3)
    launch(work, *sys.argv[1:3], options=options)
