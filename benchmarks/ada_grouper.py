"""Ada-Grouper on a network that is late: real processes with slept costs, beside the prediction.

Two processes run kfkb through the real executor and gloo; an op is a tiny tensor operation and a
sleep (F 20 ms, B 40 ms), and a wrapper holds every message for c before it is sent
(`runtime.delayed`). Three parts:

1. each group under c = 0, F and 2F, all in turn: steps of a group relative to those of group 1,
   measured and simulated; they must agree within 10 %;
2. the tuner: the delay begins, doubles and ends while steps go on. It must find the group of least
   memory that hides the messages, and go back;
3. simulated only: a network that other jobs pre-empt in bursts, 8 ranks and 32 micro-batches; the
   tuner beside 1F1B and beside the best fixed groups.

    python -m benchmarks.ada_grouper [--json docs/measured/ada_grouper.json]
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.slept import Case, Sleepy, head, say, slots
from benchmarks.toy import TOKENS, WIDTH
from longpipe import UniformCosts, add_messages, build, simulate, validate
from longpipe.ir import COMPUTE, Problem, Program, Timeline, segments_from_lengths
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.delayed import DelayedTransport
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.p2p import GlooTransport
from longpipe.runtime.trace import gather_timeline
from longpipe.train.tuner import Decision, decide

F_S, B_S = 0.02, 0.04
PROBLEM = Problem(ranks=2, microbatches=16)
GROUPS = (1, 2, 4, 8, 16)
WITHIN = 0.10  # of the predicted ratio
EVERY, HYSTERESIS = 3, 0.05
PHASES = ((0.0, 6), (1.0, 9), (2.0, 9), (0.0, 9))  # latency in F, steps
BURSTS = Problem(ranks=8, microbatches=32)


def costs(problem: Problem, latency: float) -> UniformCosts:
    """F 1, B 2, and messages of `latency`, in F's."""
    return UniformCosts(problem, 1, 1, 1, comm=round(latency, 3))


def programs(problem: Problem) -> dict[int, Program]:
    """By group; all that divide the micro-batches."""
    m = problem.microbatches
    found = {}
    for group in (size for size in range(1, m + 1) if m % size == 0):
        found[group] = add_messages(build("kfkb", problem, group=group))
        validate(found[group])
    return found


def best_group(problem: Problem, latency: float) -> int:
    """The paper's: the smallest divisor of m that hides the messages of the steady state."""
    least = 1 + ceil(2 * latency / 3)
    return min(g for g in range(1, problem.microbatches + 1)
               if problem.microbatches % g == 0 and g >= least)  # fmt: skip


@dataclass
class Bench:
    """One rank of the real part: an executor for each group over the same stage."""

    world: World
    ways: Mapping[int, Program]
    transport: DelayedTransport
    executors: Mapping[int, Executor]
    steps: int = 0

    @classmethod
    def set_up(cls, world: World) -> "Bench":
        """Stage, transport, executors."""
        with suppress(OSError):  # where it is allowed: no other program may hold up a rank
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        ways = programs(PROBLEM)
        seconds = slots(PROBLEM, UniformCosts(PROBLEM, F_S, B_S / 2, B_S / 2), COMPUTE)
        stage = Sleepy(world.rank, Case("kfkb", "equal", ways[1], seconds, 0.0))
        transport = DelayedTransport(GlooTransport(range(world.ranks)))
        boundary = Boundary(1, WIDTH, (segments_from_lengths([TOKENS]),) * PROBLEM.microbatches)
        executors = {
            group: Executor(program, world.rank, {world.rank: stage}, transport, boundary)
            for group, program in ways.items()
        }
        return cls(world, ways, transport, executors)

    def step(self, group: int, latency: float) -> Timeline | None:
        """One step with this group and latency (in F's); its timeline at rank 0."""
        self.transport.delay_s = latency * F_S
        self.steps += 1
        batches = [torch.randn(1, TOKENS, WIDTH)] * PROBLEM.microbatches
        dist.barrier()
        events = self.executors[group].run_step(batches, 1.0).events()
        key = f"step {self.steps}"
        return gather_timeline(self.ways[group], events, self.world.store, self.world.rank, key=key)


def run(world: World, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One rank of both real parts; the figures of rank 0."""
    bench = Bench.set_up(world)
    for group in GROUPS:
        bench.step(group, 0.0)  # warms up
    found = compare_groups(bench, rounds), follow(bench)
    bench.transport.close()
    return found


def compare_groups(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Steps of each group relative to group 1's, for each latency; rounds alternate."""
    rows = []
    for latency in (0.0, 1.0, 2.0):
        seconds: dict[int, list[float]] = {group: [] for group in GROUPS}
        for _ in range(rounds):
            for group in GROUPS:
                timeline = bench.step(group, latency)
                seconds[group].append(timeline.makespan_s if timeline else 0.0)
        if bench.world.rank:
            continue
        predicted = {
            group: simulate(bench.ways[group], costs(PROBLEM, latency)).makespan_s * F_S
            for group in GROUPS
        }
        for group in GROUPS:
            measured = median(seconds[group]) / median(seconds[1])
            ratio = predicted[group] / predicted[1]
            rows.append({
                "latency": latency, "group": group, "predicted_s": predicted[group],
                "measured_s": median(seconds[group]), "predicted_ratio": ratio,
                "measured_ratio": measured, "off": measured / ratio - 1,
            })  # fmt: skip
        say(f"messages of {latency:g} F: done")
    return rows


def follow(bench: Bench) -> list[dict[str, Any]]:
    """The tuner over all phases: what each step took, and the group it ran with."""
    rows: list[dict[str, Any]] = []
    group, recent = 1, []
    phases = [latency for latency, count in PHASES for _ in range(count)]
    for step, latency in enumerate(phases, start=1):
        timeline = bench.step(group, latency)
        row: dict[str, Any] = {"step": step, "latency": latency, "group": group}
        decision: list[Decision | None] = [None]
        if timeline is not None:
            recent.append(timeline)
            row["measured_s"] = timeline.makespan_s
            if step % EVERY == 0:
                decision = [decide(step, group, bench.ways, recent, HYSTERESIS)]
                row["look"] = decision[0].record()
                recent = []
        if step % EVERY == 0:
            dist.broadcast_object_list(decision)
            assert decision[0] is not None
            group = decision[0].chosen
        rows.append(row)
    return rows


def found_best(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[float, int, int]]:
    """For each phase its latency, the group at its end, and the one that the paper's rule gives."""
    end = 0
    for latency, count in PHASES:
        end += count
        yield latency, rows[end - 1]["group"], best_group(PROBLEM, latency)


def bursts(steps: int, seed: int) -> list[float]:
    """A latency for each step: 0.02 F, and in bursts of 40 steps on average 0.2 to 1.5 F."""
    draw = random.Random(seed)
    found: list[float] = []
    while len(found) < steps:
        found += [0.02] * max(1, round(draw.expovariate(1 / 60)))
        found += [draw.uniform(0.2, 1.5)] * max(1, round(draw.expovariate(1 / 40)))
    return found[:steps]


def preempted(steps: int, every: int, seed: int) -> dict[str, float]:
    """Simulated time of a run, relative to group 1's: of fixed groups, and of the tuner.

    Also the share of its steps that the tuner runs with group 1, and so with 1F1B's memory.
    """
    ways = programs(BURSTS)
    timelines: dict[tuple[int, float], Timeline] = {}

    def step(group: int, latency: float) -> Timeline:
        key = (group, latency)
        if key not in timelines:
            timelines[key] = simulate(ways[group], costs(BURSTS, latency))
        return timelines[key]

    latencies = bursts(steps, seed)
    total = {f"group {g}": sum(step(g, c).makespan_s for c in latencies) for g in (1, 2, 4)}
    group, tuned, small = 1, 0.0, 0
    for number, latency in enumerate(latencies, start=1):
        tuned += step(group, latency).makespan_s
        small += group == 1
        if number % every == 0:
            group = decide(number, group, ways, [step(group, latency)], HYSTERESIS).chosen
    total["tuner"] = tuned
    relative = {name: seconds / total["group 1"] for name, seconds in total.items()}
    return relative | {"tuner's share of group 1": small / steps}


def main() -> None:
    """Run all parts, print the figures, exit with 1 if one is not as predicted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    options = parser.parse_args()
    compared, followed = launch(run, options.rounds, options=Launch(ranks=2, threads=1))
    simulated = {seed: preempted(600, 10, seed) for seed in range(5)}
    show(compared, followed, simulated)
    if options.json:
        document = head() | {"command": "python -m benchmarks.ada_grouper"}
        document |= {"groups": compared, "tuner": followed, "bursts": simulated}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    wrong = any(abs(row["off"]) > WITHIN for row in compared)
    lost = any(group != best for _, group, best in found_best(followed))
    sys.exit(wrong or lost)


def show(
    compared: Sequence[dict[str, Any]],
    followed: Sequence[dict[str, Any]],
    simulated: Mapping[int, Mapping[str, float]],
) -> None:
    """All figures."""
    print("c / F  group  predicted s  measured s  predicted ratio  measured ratio  off by")
    for row in compared:
        print(
            f"{row['latency']:5g}  {row['group']:5}  {row['predicted_s']:11.3f}  "
            f"{row['measured_s']:10.3f}  {row['predicted_ratio']:15.3f}  "
            f"{row['measured_ratio']:14.3f}  {row['off']:+6.1%}"
        )
    print("\nthe tuner: step, c / F, group, measured s; after each look what it saw and chose")
    for row in followed:
        line = f"{row['step']:4}  {row['latency']:3g}  {row['group']:3}  {row['measured_s']:.3f}"
        if look := row.get("look"):
            line += f"  messages {look['message_s'] * 1e3:5.1f} ms, group {look['chosen']}"
        print(line)
    for latency, group, best in found_best(followed):
        print(f"c = {latency:g} F: group {group} at the end, {best} by the paper's rule")
    print("\nsimulated, network pre-empted in bursts: time relative to group 1")
    for seed, row in simulated.items():
        print(f"seed {seed}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
