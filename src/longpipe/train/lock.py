"""One run at a time in a run's folder: two would mix their checkpoints and metrics."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longpipe.errors import RunError

_NAME = "run.lock"


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Inside, no other run can enter `folder`; the first rank holds it for all.

    The kernel lets go of the lock when the process ends, however it ends: a file that is left
    behind is no obstacle. Raises RunError that names the process that is in there.
    """
    with (folder / _NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{folder} is in use by another run ({holder}): wait until that has ended, end "
                "it, or set another train.out_dir"
            ) from None
        except OSError:  # a file system without locks: a run on it must go on being possible
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
