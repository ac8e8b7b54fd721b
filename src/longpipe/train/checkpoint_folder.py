"""A run's folder of checkpoints: their names, which are complete, which are whole."""

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from longpipe.errors import CheckpointError
from longpipe.train.manifest import FileInfo, check_files, read_manifest

_COMPLETE = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"step-\d{8,}\.tmp-.*")


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; what a kill left half-written does not count."""
    return next(newest_first(folder), None)


def clean(folder: Path) -> None:
    """Remove what a kill left half-written. For one process, when no other saves."""
    for path in list(folder.glob("step-*")):
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def newest_first(folder: Path) -> Iterator[Path]:
    """Complete checkpoints, the one of the most steps first."""
    found = {path: _COMPLETE.fullmatch(path.name) for path in folder.glob("step-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match and path.is_dir()}
    yield from sorted(steps, key=steps.__getitem__, reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all undamaged."""
    return next(filter(is_whole, newest_first(folder)), None)


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says; reads all bytes."""
    try:
        check_files(path, read_manifest(path).files)
    except CheckpointError:
        return False
    return True


def check_room(staging: Path, needed_bytes: int) -> None:
    """Say that the disk is too small before filling it."""
    if shutil.disk_usage(staging).free < needed_bytes:
        raise CheckpointError("No space left on device")


def check_seen(folder: Path, files: Mapping[str, FileInfo], rank: int) -> None:
    """Refuse files that `rank` has written on a disk of its own, where nobody could load them."""
    for name, info in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != info.size_bytes:
            raise CheckpointError(
                f"rank {rank} has written {path}, but the first rank does not see it there: "
                "train.out_dir must be on a disk that all ranks share"
            )


def remove(path: Path) -> None:
    """Take the name away first: a kill while deleting must not leave a complete-looking folder."""
    doomed = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def step_path(folder: Path, step: int) -> Path:
    """Where the complete checkpoint of a step lies."""
    return folder / f"step-{step:08d}"
