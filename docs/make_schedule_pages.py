"""Writes the pages that follow from the code: `make docs-pages`.

One page per registered schedule and their index (here), the configuration reference
(`configuration_page.py`) and the command line (`command_page.py`). What it writes is committed;
a test compares the files with a fresh run.
"""

import json
import sys
from collections.abc import Iterator
from functools import cache
from inspect import getdoc
from pathlib import Path
from statistics import median
from typing import Any

import command_page
import configuration_page
from memory_curve import memory_curve

from longpipe import Metrics, Problem, ProblemError, UniformCosts, build, entries, measure, simulate
from longpipe.schedules import Entry, example

DOCS = Path(__file__).parent
GOLDENS = DOCS.parent / "tests" / "goldens"
NOTES = DOCS / "schedule_notes"
SLEPT = DOCS / "measured" / "slept.json"  # written by `make bench-slept`

_MADE = "<!-- Made by docs/make_schedule_pages.py: run `make docs-pages`, do not edit. -->\n"
_SIZES = ((4, 8), (8, 16))
_SEGMENTS = (1, 2, 4, 8)
_LEGEND = (
    "p ranks, r the rank (from 0), m micro-batches, v chunks per rank, k segments per micro-batch, "
    "g units in a group; F, I, W are the times of one whole micro-batch through all layers of one "
    "rank. Peaks count the activations of whole micro-batches on one rank."
)


def pages() -> dict[str, str]:
    """Content by path below docs/."""
    found = {f"schedules/{entry.name}.md": _page(entry) for entry in entries()}
    found["schedules/index.md"] = _index()
    found["configuration.md"] = configuration_page.page()
    found["command_line.md"] = command_page.page()
    marked = {name: _with_mark(text) for name, text in found.items()}
    return marked | {f"schedules/{entry.name}.svg": _memory(entry) for entry in entries()}


def _with_mark(text: str) -> str:
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{_MADE}{rest.rstrip()}\n"


def _page(entry: Entry) -> str:
    sections = [
        f"# {entry.title}",
        f"`{entry.name}`" + "".join(f", also `{alias}`" for alias in entry.aliases),
        f"Published: {entry.paper}.",
        getdoc(entry.build) or "",
        "## Words of the paper",
        _module_doc(entry) or "The paper uses our words.",
        "## Picture",
        "Time goes to the right, F = I = W = 1 for a whole micro-batch on one rank. "
        "A dot is idle, a dash goes on with the op before. The picture is the one that a test "
        "compares with.",
        *_pictures(entry),
        "## Formulas",
        f"| | |\n|---|---|\n| global bubble | {_code(entry.bubble)} |\n"
        f"| peak activations of rank r | {_code(entry.peak)} |",
        _LEGEND,
        "## Simulated",
        "F = I = W = 1, messages take no time. Makespan and bubbles are in that unit; peaks are "
        "listed from rank 0 on.",
        _table(entry),
        "The command of the first row:",
        f"<!-- not run: the table above has its numbers -->\n```console\n"
        f"$ longpipe simulate {entry.name} {_options(_problems(entry)[0])}\n```",
        "## Memory",
        "The activations that each rank holds, F = I = W = 1; the peak counts whole micro-batches "
        "on one rank.",
        f"![Activations over time]({entry.name}.svg)",
        *_measured(entry),
        *_note(entry),
    ]
    return "\n\n".join(sections) + "\n"


def _index() -> str:
    rows = [
        f"| [{entry.name}]({entry.name}.md) | {entry.title} | {_chunks(entry)} "
        f"| {'yes' if entry.segments else 'no'} | {'I, W' if entry.splits else 'B'} "
        f"| {_code(entry.bubble)} | {_code(entry.peak)} |"
        for entry in entries()
    ]
    p, m = _SIZES[0]
    compared = []
    for entry in entries():
        problem = example(entry, p, m, 4 if entry.segments else 1)
        compared.append(f"| {entry.name} {_row(problem, _numbers(entry, problem))}")
    return "\n\n".join(
        [
            "# Schedules",
            "A schedule says in which order each rank runs its ops. Each is one file in "
            "`src/longpipe/schedules/`; dropping a file in registers it. `longpipe zoo` prints "
            "this list.",
            "| name | title | chunks per rank | orders segments | backward | global bubble "
            "| peak activations |\n|---|---|---|---|---|---|---|\n" + "\n".join(rows),
            _LEGEND,
            "## Side by side",
            f"{p} ranks, {m} micro-batches, 4 segments where the schedule orders segments, "
            "F = I = W = 1, or the next size that it takes. Made by the simulator; each page has "
            "more sizes, and [time and memory on a 7B decoder](../frontier.md) are compared apart.",
            "| schedule | p | m | v | k | makespan | global bubble | span bubble "
            "| peak activations by rank |\n|---|---|---|---|---|---|---|---|---|\n"
            + "\n".join(compared),
            "Which one is fastest on your model depends on what an op costs there. Attention makes "
            "late segments dearer, messages take time, and small kernels are slow. "
            "[How to find out](../tutorial.md#simulate).",
        ]
    )


def _module_doc(entry: Entry) -> str:
    """What follows the first line of the schedule file's docstring."""
    doc = getdoc(sys.modules[entry.build.__module__]) or ""
    return doc.partition("\n\n")[2]


def _pictures(entry: Entry) -> Iterator[str]:
    paths = sorted((GOLDENS / entry.name).glob("*.txt"))
    if not paths:
        raise SystemExit(f"{GOLDENS / entry.name} has no picture: run `make goldens` first")
    for path in paths:
        if path.stem.endswith("_fused"):
            yield "With pairs that run as one op in a time of 3; `&` joins the two."
        yield f"```text\n{path.read_text(encoding='utf-8').rstrip()}\n```"


def _problems(entry: Entry) -> list[Problem]:
    """The sizes of the table that the schedule can order."""
    found = []
    for ranks, microbatches in _SIZES:
        for segments in _SEGMENTS if entry.segments else (1,):
            problem = Problem(ranks, microbatches, _chunks_of(entry), segments)
            try:
                build(entry.name, problem)
            except ProblemError:
                continue
            found.append(problem)
    return found


def _table(entry: Entry) -> str:
    rows = [_row(problem, _numbers(entry, problem)) for problem in _problems(entry)]
    head = "| p | m | v | k | makespan | global bubble | span bubble | peak activations by rank |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


def _numbers(entry: Entry, problem: Problem) -> Metrics:
    return measure(simulate(build(entry.name, problem), UniformCosts(problem)))


def _row(problem: Problem, found: Metrics) -> str:
    cells = [
        str(problem.ranks),
        str(problem.microbatches),
        str(problem.chunks),
        str(problem.segments),
        f"{found.makespan_s:g}",
        f"{found.global_bubble_s:g} ({found.global_bubble_rate:.1%})",
        f"{found.span_bubble_s:g} ({found.span_bubble_rate:.1%})",
        " ".join(f"{peak:g}" for peak in found.peak_memory or ()),
    ]
    return f"| {' | '.join(cells)} |"


def _options(problem: Problem) -> str:
    text = f"--ranks {problem.ranks} --microbatches {problem.microbatches}"
    if problem.chunks > 1:
        text += f" --chunks {problem.chunks}"
    return text + (f" --segments {problem.segments}" if problem.segments != 1 else "")


def _chunks_of(entry: Entry) -> int:
    return 2 if entry.chunks is None else entry.chunks


def _chunks(entry: Entry) -> str:
    if entry.chunks is None:
        return "2 or more"
    return f"{entry.chunks} or more" if entry.more_chunks else str(entry.chunks)


def _memory(entry: Entry) -> str:
    """The curve of memory of 4 ranks, 8 micro-batches, and 4 segments where it orders segments."""
    problem = example(entry, *_SIZES[0], 4 if entry.segments else 1)
    return memory_curve(simulate(build(entry.name, problem), UniformCosts(problem)))


@cache
def _slept() -> dict[str, Any]:
    """The figures of `make bench-slept`."""
    found: dict[str, Any] = json.loads(SLEPT.read_text(encoding="utf-8"))
    return found


def _measured(entry: Entry) -> Iterator[str]:
    """Its rows in the benchmark with slept costs."""
    found = _slept()
    names = {entry.name: "", f"{entry.name} with R": ", with recompute"}
    rows = [row for row in found["rows"] if row["schedule"] in names]
    if not rows:
        return
    yield "## Measured"
    yield (
        "On real processes over gloo, each op a small tensor operation and a sleep, with equal "
        "costs or those of a 7B decoder, where messages also take time "
        f"([how](../measuring.md#slept-costs)). {found['date']}, {found['hardware']}, "
        f"`{found['command']}`; measured: the median of {len(rows[0]['measured_s'])} steps."
    )
    lines = ["| p | m | v | k | costs | predicted s | measured s | |", "|---|" + "---|" * 7]
    for row in rows:
        sizes = (str(row[name]) for name in ("ranks", "microbatches", "chunks", "segments"))
        times = f"{row['predicted_s']:.3f} | {median(row['measured_s']):.3f}"
        lines.append(
            f"| {' | '.join(sizes)} | {row['costs']} | {times} | {row['ratio'] - 1:+.1%} |"
        )
    yield "\n".join(lines)


def _code(formula: str) -> str:
    return f"`{formula}`" if formula else "none published"


def _note(entry: Entry) -> Iterator[str]:
    """Written by hand, where somebody has."""
    path = NOTES / f"{entry.name}.md"
    if path.is_file():
        yield "## When to use it"
        yield path.read_text(encoding="utf-8").strip()


def main() -> None:
    """Write all pages; remove those of schedules that are gone."""
    made = pages()
    for old in (DOCS / "schedules").iterdir():
        if f"schedules/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
