"""What `longpipe view` takes: a run, a plan, or a schedule; each becomes timelines."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import typer

from longpipe.cli._options import Asked
from longpipe.cost import MeasuredCosts
from longpipe.errors import DataError, LongpipeError
from longpipe.ir import Op, Timeline
from longpipe.plan import named
from longpipe.plan.plan import Plan
from longpipe.simulate import simulate
from longpipe.view import Panel, load_timelines, of_run

_FORMAT = re.compile(r'"format":\s*"longpipe[ -](\w+)')
_OWN: dict[str, Callable[[str], object]] = {
    "ranks": int, "microbatches": int, "chunks": int, "segments": str, "memory_limit": float,
    "group": int, "recompute": str, "costs": str, "comm": str,
}  # fmt: skip
_LEFT_BY_A_RUN = ("predicted.json", "measured.json")  # the plan stands above


class FileCosts(NamedTuple):
    """Costs that were measured, and the file that has them."""

    costs: MeasuredCosts
    path: Path


def read_costs(path: Path) -> FileCosts:
    """Read a costs file; DataError names it where it cannot be read."""
    try:
        return FileCosts(MeasuredCosts.from_json(_text(path)), path)
    except LongpipeError as error:
        raise DataError(f"{path}: {error}") from error


def panels_of(asked: Asked, group: int, costs: FileCosts | None) -> tuple[Panel, ...]:
    """The timelines of one argument; plans and schedules are simulated, and say at what costs."""
    asked = _with_own(asked)
    if named(asked.name) is not None:
        return (_scheduled(asked, group, costs),)
    path = Path(asked.name)
    if path.is_dir():
        return _run(path, group)
    form = _FORMAT.search(_text(path)[:400])
    if form is None:
        return (_scheduled(asked, group, costs),)
    if form[1] == "timelines":
        return of_run(load_timelines(path), str(path), group)
    if form[1] == "plan":
        return (_planned(asked, path, group, costs),)
    raise DataError(
        f"{path} holds {form[1]}, not a timeline, plan or schedule"
        + (": give it as --costs-file, and what to simulate with it" * (form[1] == "costs"))
    )


def _with_own(asked: Asked) -> Asked:
    """Where the name has options of its own behind it, as in `seq1f1b segments=4`."""
    name, *own = asked.name.split() or [""]
    if not own or Path(asked.name).exists():
        return asked
    values: dict[str, Any] = {"name": name}
    for text in own:
        option, _, value = text.partition("=")
        try:
            values[option] = _OWN[option](value)
        except (KeyError, ValueError):
            raise typer.BadParameter(
                f"{text!r} behind {name} is not one of {', '.join(_OWN)}, = and its value",
                param_hint="SCHEDULE",
            ) from None
    return replace(asked, **values)


def _run(folder: Path, group: int) -> tuple[Panel, ...]:
    found = [folder / name for name in _LEFT_BY_A_RUN if (folder / name).is_file()]
    if not found:
        raise DataError(
            f"{folder} holds neither {' nor '.join(_LEFT_BY_A_RUN)}: give the folder of a run, its "
            "train.out_dir"
        )
    timelines = [timeline for path in found for timeline in load_timelines(path)]
    return tuple(replace(panel, seconds=True) for panel in of_run(timelines, str(folder), group))


def _scheduled(asked: Asked, group: int, costs: FileCosts | None) -> Panel:
    schedule = asked.schedule()
    if costs is None:
        return Panel(
            simulate(schedule, asked.priced(schedule.problem)), asked.said(), group, seconds=False
        )
    return Panel(simulate(schedule, costs.costs), f"costs of {costs.path}", group, seconds=True)


def _planned(asked: Asked, path: Path, group: int, costs: FileCosts | None) -> Panel:
    try:
        plan = Plan.from_json(_text(path))
    except LongpipeError as error:
        raise DataError(f"{path}: {error}") from error
    if costs is not None:
        timeline = _simulated(plan, costs.costs)
        return Panel(timeline, f"{path}, costs of {costs.path}", group, seconds=True)
    note = f"{path}, {asked.said()}"
    if plan.weight_queue_bytes is not None:  # needs the bytes of a weight gradient
        plan = replace(plan, weight_queue_bytes=None)
        note += "; its weight_queue_bytes left out, since unit costs know no bytes"
    unit = asked.priced(plan.problem)
    return Panel(simulate(plan.program(unit), unit), note, group)


def _simulated(plan: Plan, costs: MeasuredCosts) -> Timeline:
    def held(weight: Op) -> int:
        return -costs.holds(weight)

    return simulate(plan.program(costs, held), costs)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: {error}") from error
