"""What recompute costs and saves: CPU time and activation memory of a step, full and selective.

One process and one thread run all micro-batches forward and then backward, as the first rank of a
pipeline holds them. Rounds alternate between the modes; a figure is the median over the rounds, in
CPU time of the one thread, so that other load on the machine counts little. Gradients are compared
with those of the mode without recompute, bit for bit.

    python -m benchmarks.recompute
"""

import argparse
from statistics import median
from time import thread_time

import torch

from longpipe.cost import (
    AnalyticCosts,
    DecoderShape,
    Device,
    Link,
    Load,
    StageShape,
    coefficients,
)
from longpipe.ir import Problem, Program, segments_from_lengths
from longpipe.model import DecoderConfig, DecoderStage, MicroBatch
from longpipe.passes import add_messages, recompute
from longpipe.plan import equal_cost_cuts
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.local import LocalFabric
from longpipe.runtime.memory import MemoryMeter
from longpipe.schedules import build
from longpipe.simulate import measure, simulate

MODES = ("none", "full", "selective")


class Run:
    """One mode: its program, its model, and what it measured."""

    def __init__(self, mode: str, config: DecoderConfig, problem: Problem, cut: tuple[int, ...]):
        plain = build("gpipe", problem)
        self.program = add_messages(plain if mode == "none" else recompute(plain))
        self.cuts = (cut,) * problem.microbatches
        self.stage = DecoderStage(config, range(config.layers), first=True, last=True)
        self.stage.keeps_attention = mode == "selective"
        shape = DecoderShape.from_hf(config.to_hf())
        load = Load((config.layers,), self.cuts, 1, 4, 4, keeps_attention=mode == "selective")
        self.costs = AnalyticCosts(problem, shape, load, Device(1.0), Link(0.0, 1.0))
        self.seconds: list[float] = []

    def step(self, batches: list[MicroBatch], meter: MemoryMeter | None = None) -> float:
        """Run a step; its peak bytes with a meter, else its CPU seconds."""
        segments = tuple(map(segments_from_lengths, self.cuts))
        boundary = Boundary(1, self.stage.config.hidden, segments)
        transport = LocalFabric(1).transport(0)
        executor = Executor(self.program, 0, {0: self.stage}, transport, boundary, meter=meter)
        begun_s = thread_time()
        events = executor.run_step(batches, 1e-3).events()
        return thread_time() - begun_s if meter is None else max(e.peak or 0 for e in events)

    def clear(self) -> None:
        """Set the gradients to 0, as a step expects them."""
        for parameter in self.stage.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def predicted(self) -> tuple[float, float]:
        """FLOPs and peak bytes by the analytic cost model."""
        program: Program = self.program
        found = measure(simulate(program, self.costs))
        assert found.peak_memory is not None
        return found.busy_s[0], found.peak_memory[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (
        ("hidden", 256), ("layers", 4), ("tokens", 2048), ("segments", 4), ("microbatches", 4),
        ("rounds", 5),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = DecoderConfig(
        asked.hidden, asked.layers, heads=asked.hidden // 64, kv_heads=asked.hidden // 128,
        head_dim=64, intermediate=asked.hidden * 11 // 4, vocab=512,
    )  # fmt: skip
    problem = Problem(1, asked.microbatches, segments=asked.segments)
    shape = DecoderShape.from_hf(config.to_hf())
    linear, pair = coefficients(shape, StageShape(config.layers, first=True, last=True))
    cut = equal_cost_cuts(asked.tokens, asked.segments, linear=linear, pair=pair)
    tokens = torch.randint(512, (asked.microbatches, 1, asked.tokens))
    batches = [MicroBatch.whole(each, each) for each in tokens]
    runs = {mode: Run(mode, config, problem, cut) for mode in MODES}
    for turn in range(asked.rounds + 1):
        for run in runs.values():
            run.clear()
            seconds = run.step(batches)
            if turn:  # the first warms up
                run.seconds.append(seconds)
    plain = runs["none"]
    wanted = [parameter.grad for parameter in plain.stage.parameters()]
    base_s, base_flops = median(plain.seconds), plain.predicted()[0]
    print(f"segments of {' '.join(map(str, cut))} tokens; CPU time of one thread")
    print("mode       CPU s  ratio  by FLOPs  peak MB  predicted  gradients")
    for mode, run in runs.items():
        same = all(map(torch.equal, wanted, (p.grad for p in run.stage.parameters())))
        run.clear()
        with MemoryMeter() as meter:
            peak = run.step(batches, meter)
        flops, bytes_ = run.predicted()
        step_s = median(run.seconds)
        print(
            f"{mode:9} {step_s:6.2f} {step_s / base_s:6.2f} {flops / base_flops:9.2f} "
            f"{peak / 1e6:8.1f} {bytes_ / 1e6:10.1f}  {'equal' if same else 'NOT EQUAL'}"
        )


if __name__ == "__main__":
    main()
