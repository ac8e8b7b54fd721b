"""Makespans on real processes against the simulator's, with ops that sleep: `make bench-slept`.

Every registered schedule runs through the real executor and gloo on 4 and on 8 processes. An op is
a tiny tensor operation and a sleep for the rest of its time, so that two cores are enough for
eight ranks: what is shown is that order, messages and placement take the time that the simulator
says. Costs are equal (F = I = W), or those of a 7B decoder at 64k tokens, in which F, I and W, the
segments and the last stage all differ; there messages take time, too. Schedules that search are
given the same costs.

    # no real-time priority here: spinning ranks would starve the whole machine (lead's decision)
    python -m benchmarks.slept [--only zb] [--json docs/measured/slept.json]
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.sizes import LLAMA_7B, build_first
from benchmarks.sleepy import Sleepy, Slot
from benchmarks.toy import TOKENS, WIDTH
from longpipe import ProblemError, UniformCosts, add_messages, entries, simulate, validate
from longpipe.cost import Device, Link
from longpipe.ir import COMPUTE, Costs, Kind, Op, Problem, Program, segments_from_lengths
from longpipe.passes import recompute, stages_named
from longpipe.plan.comparison import Setting, placement_of, priced
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.delayed import DelayedTransport
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.p2p import GlooTransport
from longpipe.runtime.trace import gather_timeline
from longpipe.schedules import Entry

WITHIN = 0.05  # of the prediction
OP_S = 0.02  # mean time of an op
TOKENS_7B = 65536
LATENCY_S = 0.003  # of a message, with the decoder's costs
RECOMPUTED = {"1f1b": "all", "chronos": "chunk:0"}  # these run with an R as well; the stages


@dataclass(frozen=True, slots=True)
class Case:
    """One schedule with its costs, ready to run; `seconds` by (kind, stage, segment)."""

    schedule: str
    costs: str
    program: Program
    seconds: dict[Slot, float]
    predicted_s: float


def costs_for(kind: str, entry: Entry, problem: Problem) -> Costs:
    """Costs of `kind`, so that an F, I or W takes OP_S on average."""
    if kind == "equal":
        whole = f"{OP_S * problem.chunks * problem.segments_max:.9f}"
        return UniformCosts(problem, whole, whole, whole)
    placement = placement_of(entry, problem)
    link = Link(LATENCY_S, math.inf)

    def at(flops_per_s: float) -> Costs:
        setting = Setting(
            LLAMA_7B, TOKENS_7B, problem.ranks, problem.microbatches, Device(flops_per_s), link
        )
        return priced(setting, problem, placement)

    return at(mean(slots(problem, at(1.0), (Kind.F, Kind.I, Kind.W)).values()) / OP_S)


def slots(problem: Problem, costs: Costs, kinds: Iterable[Kind]) -> dict[Slot, float]:
    """Seconds of every kind of op on every stage for every segment."""
    return {
        (kind, stage, seg): costs.ticks(Op(kind, stage, 0, seg)) * costs.tick_s
        for kind in kinds
        for stage in range(problem.stages)
        for seg in range(problem.segments_max)
    }


def make_case(
    entry: Entry, kind: str, ranks: int, microbatches: int, segments: int, again: str = ""
) -> Case:
    """Build, price, validate and simulate one schedule; `again` names stages with recompute."""

    def costs(problem: Problem) -> Costs:
        return costs_for(kind, entry, problem)

    schedule = build_first(entry, ranks, microbatches, segments, costs)
    if again:
        schedule = recompute(schedule, stages_named(again, schedule.placement))
    program = add_messages(schedule)
    validate(program)
    model = costs(schedule.problem)
    predicted_s = simulate(schedule, model).makespan_s
    name = f"{entry.name} with R" if again else entry.name
    return Case(name, kind, program, slots(schedule.problem, model, COMPUTE), predicted_s)


def run(world: World, cases: list[Case], steps: int) -> list[list[float]]:
    """One rank: the makespans of every case's steps, at rank 0."""
    hurry()
    transport = DelayedTransport(GlooTransport(range(world.ranks)))
    found = []
    for number, case in enumerate(cases):
        transport.delay_s = LATENCY_S if case.costs == "decoder" else 0.0
        program = case.program
        problem = program.problem
        modules = {
            s: Sleepy(s, problem.stages, case.seconds)
            for s in program.placement.stages_of(world.rank)
        }
        cuts = (segments_from_lengths([TOKENS] * problem.segments_max),) * problem.microbatches
        executor = Executor(program, world.rank, modules, transport, Boundary(1, WIDTH, cuts))
        batches = [torch.randn(1, TOKENS, WIDTH)] * problem.microbatches
        makespans = []
        for step in range(steps + 1):
            dist.barrier()
            events = executor.run_step(batches, 1.0).events()
            timeline = gather_timeline(
                program, events, world.store, world.rank, key=f"{number}.{step}"
            )
            if timeline is not None:
                makespans.append(timeline.makespan_s)
        found.append(makespans[1:])  # the first one warms up
        if world.rank == 0:
            off = median(makespans[1:]) / case.predicted_s - 1
            say(f"{number + 1} of {len(cases)}: {case.schedule}, {case.costs} costs: {off:+.1%}")
    return found


def hurry() -> None:
    """Real-time priority, where it is allowed: other programs must not hold up who wakes."""
    tasks = Path("/proc/self/task")  # gloo's threads are there already
    for task in tasks.iterdir() if tasks.exists() else ():
        with suppress(OSError):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run all cases, print the table, exit with 1 if one is off by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="schedules whose name contains this text")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--steps", type=int, default=3, help="of which the median counts")
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    options = parser.parse_args()
    rows = []
    for ranks in options.ranks:
        cases = list(cases_of(ranks, options.only))
        measured = launch(run, cases, options.steps, options=Launch(ranks=ranks, threads=1))
        rows += [row_of(*pair) for pair in zip(cases, measured, strict=True)]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(head() | {"rows": rows}, indent=1) + "\n")
    sys.exit(any(abs(row["ratio"] - 1) > WITHIN for row in rows))


def cases_of(ranks: int, only: str) -> Iterator[Case]:
    """Both kinds of costs on few ranks; on many only the decoder's, since it takes longer."""
    for entry in entries():
        for kind in ("equal", "decoder") if ranks <= 4 else ("decoder",):
            if only in entry.name:
                segments = 4 // (entry.chunks or 2) if ranks <= 4 else 2
                try:
                    yield make_case(entry, kind, ranks, 8, segments)
                    if again := RECOMPUTED.get(entry.name):
                        yield make_case(entry, kind, ranks, 8, segments, again)
                except ProblemError as error:
                    say(f"{entry.name} is left out: {error}")


def row_of(case: Case, seconds: list[float]) -> dict[str, Any]:
    """What is printed and stored."""
    problem = case.program.problem
    return {
        "schedule": case.schedule,
        "ranks": problem.ranks,
        "microbatches": problem.microbatches,
        "chunks": problem.chunks,
        "segments": problem.segments,
        "costs": case.costs,
        "predicted_s": round(case.predicted_s, 4),
        "measured_s": [round(one, 4) for one in seconds],
        "ratio": round(median(seconds) / case.predicted_s, 4),
    }


def head() -> dict[str, str]:
    """When and on what."""
    return {
        "date": str(date.today()),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "command": "python -m benchmarks.slept",
    }


def processor() -> str:
    """Its name, as Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title=", ".join(head().values()))
    for column in ("schedule", "p", "m", "v", "k", "costs", "predicted s", "measured s", "off by"):
        justify = "left" if column in ("schedule", "costs") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        sizes = (str(row[name]) for name in ("ranks", "microbatches", "chunks", "segments"))
        off = row["ratio"] - 1
        table.add_row(
            row["schedule"],
            *sizes,
            row["costs"],
            f"{row['predicted_s']:.3f}",
            f"{median(row['measured_s']):.3f}",
            f"{off:+.1%}" + (" !" if abs(off) > WITHIN else ""),
        )
    console = Console()
    Console(width=max(console.width, 100)).print(table)


if __name__ == "__main__":
    main()
