"""A schedule by its name, or as somebody has written it in a file."""

from pathlib import Path

from longpipe.errors import DataError, ProblemError
from longpipe.ir import Problem, Program, Schedule, read
from longpipe.schedules import Entry, entries, entry


def named(name: str) -> Entry | None:
    """The schedule of that name; None: it is a file.

    Raises ProblemError where it looks like a name that nobody has, DataError where like a file that
    is not there.
    """
    path = Path(name)
    if any(name in (each.name, *each.aliases) for each in entries()):
        return entry(name)
    if path.exists():
        return None
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"there is no file {path}, nor does `longpipe zoo` list such a schedule")
    return entry(name)


def read_order(path: Path, segments: int = 1) -> Schedule | Program:
    """What a file holds, ours or torch's CSV; `segments` is for the CSV, which does not say it.

    Checks that it can be read, not that the order is right (see `validate`). Raises DataError
    where the file cannot be read, ScheduleError (line and column) where its content cannot.
    """
    try:
        # Editors and spreadsheets of Windows put a byte order mark first.
        return read(path.read_text(encoding="utf-8-sig"), segments=segments)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: {error}") from error


def check_same(path: Path, held: Problem, asked: Problem) -> None:
    """Raise ProblemError unless the order in the file is for the problem that is asked for."""
    fields = ("ranks", "microbatches", "chunks", "segments")
    wrong = [
        f"{field} = {getattr(held, field)} (not {getattr(asked, field)})"
        for field in fields
        if getattr(held, field) != getattr(asked, field)
    ]
    if wrong:
        raise ProblemError(f"{path} holds an order for {', '.join(wrong)}: set these, or change it")
