"""How build, validate and simulate grow with the number of ops: `make bench-simulator`.

Every registered schedule at the largest of three sizes (64 ranks, 512 micro-batches, 16 segments
where it orders segments), and its growth from the two smaller ones. Each size runs in a process of
its own, in CPU seconds, so that the peak of its memory can be told.

    python -m benchmarks.simulator [--only zb] [--json FILE]
"""

import argparse
import json
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.sizes import build_first
from longpipe import ProblemError, UniformCosts, entries, measure, simulate, validate
from longpipe.schedules import entry

SIZES = ((64, 32, 16), (64, 128, 16), (64, 512, 16))  # ranks, micro-batches, segments
_PHASES = ("build_s", "validate_s", "simulate_s", "measure_s")


def timed(name: str, ranks: int, microbatches: int, segments: int) -> dict[str, Any] | str:
    """CPU seconds of each phase and the process's peak memory; why not, if it is refused."""
    clock = [process_time()]
    try:
        schedule = build_first(entry(name), ranks, microbatches, segments)
    except ProblemError as error:
        return str(error)
    problem = schedule.problem
    clock.append(process_time())
    validate(schedule)
    clock.append(process_time())
    timeline = simulate(schedule, UniformCosts(problem))
    clock.append(process_time())
    assert measure(timeline).ops == schedule.ops, "every op was simulated"
    clock.append(process_time())
    spent = [after - before for before, after in pairwise(clock)]
    return {
        "schedule": name,
        "ranks": problem.ranks,
        "microbatches": problem.microbatches,
        "chunks": problem.chunks,
        "segments": problem.segments,
        "ops": schedule.ops,
        **{phase: round(seconds, 3) for phase, seconds in zip(_PHASES, spent, strict=True)},
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The largest size of each schedule; microseconds per op at all sizes show the growth."""
    table = Table("schedule", no_wrap=True)
    heads = (
        "m",
        "v",
        "k",
        "ops",
        "build s",
        "validate s",
        "simulate s",
        "GiB",
        "us per op by size",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name in dict.fromkeys(row["schedule"] for row in rows):
        own = [row for row in rows if row["schedule"] == name]
        last = max(own, key=lambda row: row["ops"])
        growth = (sum(row[p] for p in _PHASES[:3]) / row["ops"] * 1e6 for row in own)
        table.add_row(
            name,
            *(str(last[size]) for size in ("microbatches", "chunks", "segments")),
            f"{last['ops']:,}",
            *(f"{last[phase]:.1f}" for phase in _PHASES[:3]),
            f"{last['peak_gib']:.1f}",
            " ".join(f"{each:.1f}" for each in growth),
        )
    return table


def main() -> None:
    """Time every schedule at three sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="schedules whose name contains this text")
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    options = parser.parse_args()
    names = [each.name for each in entries() if options.only in each.name]
    asked = [(name, *size) for name in names for size in SIZES]
    rows = []
    # One process for each size: it ends, and its memory with it.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as workers:
        results = workers.map(timed, *zip(*asked, strict=True))
        for (name, *size), found in zip(asked, track(results, total=len(asked)), strict=True):
            if isinstance(found, str):
                print(f"{name} at {size}: {found}", file=sys.stderr)
            else:
                rows.append(found)
    console = Console()
    Console(width=max(console.width, 120)).print(table_of(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
