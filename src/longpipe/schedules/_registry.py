"""How a schedule gets its name: drop a file into this folder, decorate its `build`.

A builder takes a Problem. What it takes besides it says by keyword-only parameters: `costs`, if it
searches with the times of the ops; all others are its options, with their defaults.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from pathlib import Path

from longpipe.errors import ProblemError
from longpipe.ir import Costs, EqualCosts, Problem, Schedule

Option = int | float | None
Build = Callable[..., Schedule]  # (problem, *, costs, **options)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered schedule: its name, where it was published, and what it can order.

    `chunks`: stages per rank that it needs (None: any number of at least 2); `more_chunks`: whether
    it takes any larger number as well; `segments`: whether it orders segments; `splits`: whether it
    splits the backward in I and W. `bubble` and `peak` are the published closed forms as text, in
    the notation of the glossary. `searches`: whether
    its order depends on a cost model; `options`: what else `build` takes, with the defaults.
    """

    name: str
    title: str
    paper: str
    build: Build
    chunks: int | None = 1
    segments: bool = False
    splits: bool = False
    bubble: str = ""
    peak: str = ""
    aliases: tuple[str, ...] = ()
    searches: bool = False
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)
    more_chunks: bool = False


_entries: dict[str, Entry] = {}


def schedule(
    name: str,
    *,
    title: str,
    paper: str,
    chunks: int | None = 1,
    segments: bool = False,
    splits: bool = False,
    bubble: str = "",
    peak: str = "",
    aliases: tuple[str, ...] = (),
    more_chunks: bool = False,
) -> Callable[[Build], Build]:
    """Register a builder under `name`; the fields are those of `Entry`.

    The builder returned checks first that the Problem's chunks and segments suit the schedule,
    and stamps the name on what it builds. Decorators may be stacked: a schedule and its form over
    segments are often one function.
    """

    def register(function: Build) -> Build:
        takes = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        searches = takes.pop("costs", None) is not None

        @wraps(function)  # documentation is made from the builder's and its module's docstring
        def build(problem: Problem, *, costs: Costs | None = None, **options: Option) -> Schedule:
            _check(registered, problem, options)
            asked = {"costs": EqualCosts() if costs is None else costs} if searches else {}
            return replace(function(problem, **asked, **options), name=name)

        registered = Entry(
            name,
            title,
            paper,
            build,
            chunks,
            segments,
            splits,
            bubble,
            peak,
            aliases,
            searches,
            takes,
            more_chunks,
        )
        keys = (name, *aliases)
        for key in keys:
            if key in _entries:
                raise ValueError(f"two schedules are called {key!r}")
        _entries.update(dict.fromkeys(keys, registered))
        return function

    return register


def _check(entry: Entry, problem: Problem, options: Mapping[str, Option]) -> None:
    for option in options:
        if option not in entry.options:
            takers = [each.name for each in entries() if option in each.options]
            raise ProblemError(
                f"{entry.name} has no option {option}: leave it out, "
                + (f"or use {', '.join(takers)}" if takers else "no schedule has it")
            )
    if problem.segments_max > 1 and not entry.segments:
        raise ProblemError(
            f"{entry.name} orders whole micro-batches, got segments={problem.segments}: "
            f"use segments=1, or a schedule over segments ({', '.join(_over_segments())})"
        )
    if entry.chunks is not None and not (
        problem.chunks == entry.chunks or (entry.more_chunks and problem.chunks > entry.chunks)
    ):
        raise ProblemError(
            f"{entry.name} needs {entry.chunks} chunk(s) (stages) per rank, got {problem.chunks}: "
            f"set chunks={entry.chunks}"
        )
    if entry.chunks is None and problem.chunks < 2:
        raise ProblemError(f"{entry.name} needs at least 2 chunks per rank: set chunks=2")


def _over_segments() -> list[str]:
    return [entry.name for entry in entries() if entry.segments]


@cache
def entries() -> tuple[Entry, ...]:
    """Every registered schedule, sorted by name; a broken schedule file fails loudly here."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("_"):
            importlib.import_module(f"longpipe.schedules.{module.name}")
    return tuple(sorted(set(_entries.values()), key=lambda entry: entry.name))


def entry(name: str) -> Entry:
    """The schedule called `name` (or an alias); ProblemError with the nearest names otherwise."""
    entries()
    if name not in _entries:
        near = difflib.get_close_matches(name, _entries, n=3)
        known = f"known are {', '.join(each.name for each in entries())}"
        hint = f"did you mean {' or '.join(near)}?" if near else known
        raise ProblemError(f"no schedule is called {name!r}; {hint}")
    return _entries[name]


def build(name: str, problem: Problem, costs: Costs | None = None, **options: Option) -> Schedule:
    """Build the schedule called `name` for `problem`.

    `costs` is for schedules that search (None: all ops equal); others need none. `options` are the
    schedule's own, such as `memory_limit` or `group`. Raises ProblemError, with the way out, where
    the schedule cannot order the problem or does not know an option.

    >>> from longpipe.ir import Problem
    >>> [str(op) for op in build("1f1b", Problem(ranks=2, microbatches=2)).rows[0]]
    ['0F0', '0F1', '0B0', '0B1']
    """
    return entry(name).build(problem, costs=costs, **options)
