"""Timelines in a JSON file: what a run leaves behind and `longpipe trace` reads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longpipe.errors import DataError, LongpipeError
from longpipe.ir import Event, Op, Timeline

_FORMAT = "longpipe timelines 1"


def save_timelines(path: Path, timelines: Sequence[Timeline]) -> None:
    """Write timelines, for instance the predicted and the measured one of a step, to one file."""
    save_text(path, timelines_to_json(timelines))


def load_timelines(path: Path) -> tuple[Timeline, ...]:
    """Read what `save_timelines` wrote; DataError says what is wrong with any other file."""
    try:
        return timelines_from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error


def timelines_to_json(timelines: Sequence[Timeline]) -> str:
    """An object with the format's name and the timelines, one event a line.

    An event is `[op, start_s, end_s, memory, peak]`, the last two null where nobody measured.
    `pairs`, where there are any, lists the ops that ran fused.
    """
    blocks = ",\n".join(map(_block, timelines))
    return f'{{"format": {json.dumps(_FORMAT)}, "timelines": [\n{blocks}\n]}}\n'


def timelines_from_json(text: str) -> tuple[Timeline, ...]:
    """The reverse of `timelines_to_json`; raises DataError on anything else.

    >>> events = (Event(Op.parse("0F0"), 0.0, 1.5, memory=4.0, peak=6.0),)
    >>> timeline = Timeline("1f1b", "measured", (events,), waits_s=((0.0,),))
    >>> timelines_from_json(timelines_to_json([timeline])) == (timeline,)
    True
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f'no timelines: expected a JSON object with "format": "{_FORMAT}"')
    try:
        return tuple(map(_timeline, content["timelines"]))
    except (KeyError, TypeError, ValueError, LongpipeError) as error:
        raise DataError(f"timelines of another form than {_FORMAT}: {error!r}") from error


def save_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all (see `save_bytes`)."""
    save_bytes(path, text.encode())


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: nobody ever reads half of it.

    Raises DataError that names the file if it cannot be written; what stood there before remains.
    """
    if path.exists() and not path.is_file():  # a pipe, /dev/stdout: written to, never replaced
        draft = path
    else:
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content)
        if draft is not path:
            draft.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if draft is not path:
            draft.unlink(missing_ok=True)


def _block(timeline: Timeline) -> str:
    head: dict[str, Any] = {"name": timeline.name, "source": timeline.source}
    head["waits_s"] = timeline.waits_s
    if timeline.pairs:
        head["pairs"] = [[str(op) for op in pair] for pair in sorted(timeline.pairs)]
    rows = (
        "[\n" + ",\n".join(json.dumps([str(event.op), *event[1:]]) for event in row) + "\n]"
        for row in timeline.rows
    )
    return f'{json.dumps(head)[:-1]}, "rows": [{", ".join(rows)}]}}'


def _timeline(content: dict[str, Any]) -> Timeline:
    rows = tuple(tuple(map(_event, row)) for row in content["rows"])
    waits = content["waits_s"]
    waits_s = None if waits is None else tuple(tuple(map(float, row)) for row in waits)
    if waits_s is not None and [len(row) for row in waits_s] != [len(row) for row in rows]:
        raise ValueError("waits_s needs one number for each event")
    pairs = frozenset((Op.parse(a), Op.parse(b)) for a, b in content.get("pairs", ()))
    return Timeline(str(content["name"]), str(content["source"]), rows, waits_s, pairs)


def _event(content: Sequence[Any]) -> Event:
    op, start_s, end_s, memory, peak = content
    return Event(
        Op.parse(op),
        float(start_s),
        float(end_s),
        None if memory is None else float(memory),
        None if peak is None else float(peak),
    )
