"""Schedules that people have written in files."""

from pathlib import Path

from longpipe.errors import DataError
from longpipe.ir import Program, Schedule, read


def read_file(path: Path, segments: int = 1) -> Schedule | Program:
    """What a file holds, ours or torch's CSV; `segments` is for the CSV, which does not say it."""
    try:
        # Editors and spreadsheets of Windows put a byte order mark first.
        return read(path.read_text(encoding="utf-8-sig"), segments=segments)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: {error}") from error
