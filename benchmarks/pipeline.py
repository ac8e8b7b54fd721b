"""longpipe beside torch.distributed.pipelining: `make bench`.

Two single-threaded processes, each pinned to a core, run every mode on the same decoder, weights,
tokens and optimizer step. Rounds are interleaved, so that noise hits all modes alike; each figure
is a ratio of medians within this run. Before anything is timed, each mode's gradients are compared
with the unsplit model's; memory is measured in a step of its own.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.peer_longpipe import IdealMode, LongpipeMode
from benchmarks.peer_torch import TorchMode
from benchmarks.report import show
from benchmarks.workload import DECODER, Workload
from longpipe.cost import MeasuredCosts
from longpipe.model import DecoderStage
from longpipe.runtime.memory import MemoryMeter
from longpipe.runtime.p2p import GlooTransport
from longpipe.runtime.store import Store, prefixed

RANKS = 2


class Mode(Protocol):
    """Something that runs steps on this rank."""

    modules: dict[int, DecoderStage]

    def step(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Spec:
    """Which mode: `side` is torch, longpipe or ideal."""

    side: str
    schedule: str
    chunks: int = 1
    segments: int = 1
    placement: str = "loop"

    @property
    def label(self) -> str:
        """Name in the table."""
        tail = f" k={self.segments}" if self.segments > 1 else ""
        return f"{self.side} {self.schedule}{tail}"


SPECS = (
    Spec("ideal", "two replicas"),
    Spec("torch", "1F1B"),
    Spec("torch", "Interleaved1F1B", chunks=2),
    Spec("torch", "InterleavedZeroBubble", chunks=2),
    Spec("torch", "ZBVZeroBubble", chunks=2, placement="v"),
    Spec("longpipe", "zb-v", chunks=2),
    Spec("longpipe", "seq1f1b", segments=4),
    Spec("longpipe", "seq1f1b", segments=8),
    Spec("longpipe", "seq-zb-h1", segments=4),
    Spec("longpipe", "seq-zb-h1", segments=8),
    Spec("longpipe", "seq-zb-h1", segments=16),
)


@dataclass(slots=True)
class Result:
    """What one mode did; lists hold a value per round, tuples one per rank."""

    spec: Spec
    microbatches: int
    seconds: list[float] = field(default_factory=list)  # with the optimizer's step
    pipeline_s: list[float] = field(default_factory=list)  # without it
    gradient_error: float = 0.0
    peak_bytes: tuple[int, ...] = ()
    predicted_s: float | None = None
    predicted_bytes: tuple[float, ...] = ()


def make(spec: Spec, rank: int, work: Workload, group: dist.ProcessGroup) -> Mode:
    """The mode of `spec` on this rank."""
    if spec.side == "ideal":
        return IdealMode(work)
    if spec.side == "torch":
        return TorchMode(spec.schedule, spec.chunks, spec.placement, rank, RANKS, work)
    transport = GlooTransport(range(RANKS), group)
    return LongpipeMode(spec.schedule, spec.chunks, spec.segments, rank, RANKS, work, transport)


def parameters(mode: Mode) -> Iterable[tuple[str, torch.nn.Parameter]]:
    """Every parameter that this rank holds."""
    return (item for module in mode.modules.values() for item in module.named_parameters())


def clear(mode: Mode) -> None:
    """Zero the gradients in place, so that no step pays for their allocation."""
    for _, parameter in parameters(mode):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def worst_error(mode: Mode, truth: dict[str, torch.Tensor]) -> float:
    """Largest error of a parameter's gradient, relative to that gradient's norm, on any rank."""
    errors = [
        float((parameter.grad - truth[name]).norm() / truth[name].norm())
        for name, parameter in parameters(mode)
        if parameter.grad is not None
    ]
    worst = torch.tensor(max(errors))
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return float(worst)


def on_all(value: float) -> tuple[float, ...]:
    """The value of every rank."""
    gathered = [torch.zeros(1, dtype=torch.float64) for _ in range(RANKS)]
    dist.all_gather(gathered, torch.tensor([value], dtype=torch.float64))
    return tuple(float(one) for one in gathered)


def peak_bytes(mode: Mode) -> int:
    """Most bytes of activations and temporaries alive during a step."""
    with MemoryMeter() as meter:
        before = meter.current_bytes
        mode.step()
        return meter.peak_bytes - before


def timed_step(mode: Mode, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Seconds of one step, with and without its optimizer step, by the slowest rank."""
    clear(mode)
    dist.barrier()
    start = time.perf_counter()
    mode.step()
    middle = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    return max(on_all(end - start)), max(on_all(middle - start))


def run(rank: int, options: argparse.Namespace, folder: str) -> None:
    """One process of the benchmark."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    group = dist.new_group(backend="gloo")
    costs: dict[str, MeasuredCosts] = {}
    for microbatches in options.microbatches:
        work = Workload(DECODER, options.sequence, microbatches)
        results = bench(rank, work, options, group, store, costs)
        if rank == 0:
            Path(folder, f"{microbatches}.json").write_text(json.dumps(list(map(asdict, results))))
            show(json.loads(Path(folder, f"{microbatches}.json").read_text()), options.sequence)
    dist.barrier()
    dist.destroy_process_group()


def bench(
    rank: int,
    work: Workload,
    options: argparse.Namespace,
    group: dist.ProcessGroup,
    store: Store,
    costs: dict[str, MeasuredCosts],
) -> list[Result]:
    """All modes at one number of micro-batches; `costs` keeps what was measured for forecasts."""
    specs = [spec for spec in SPECS if not options.only or options.only in spec.label]
    if specs[0].side != "ideal":
        specs.insert(0, SPECS[0])
    modes, results = [], []
    for spec in specs:
        try:
            modes.append(make(spec, rank, work, group))
        except ValueError as error:  # torch's 1F1B refuses fewer micro-batches than stages
            say(rank, f"m={work.microbatches} {spec.label} cannot run: {error}")
            continue
        results.append(Result(spec, work.microbatches))
    truth: dict[str, torch.Tensor] = {}
    for mode, result in zip(modes, results, strict=True):
        clear(mode)
        result.peak_bytes = tuple(map(int, on_all(peak_bytes(mode))))
        if result.spec.side == "ideal":
            truth = {n: p.grad.clone() for n, p in parameters(mode) if p.grad is not None}
        result.gradient_error = worst_error(mode, truth)
        if isinstance(mode, LongpipeMode):
            label = result.spec.label
            if label not in costs:
                costs[label] = mode.costs(prefixed(label, store))
            result.predicted_s, result.predicted_bytes = mode.forecast(costs[label])
        error = f"{result.gradient_error:.1e}"
        say(rank, f"m={work.microbatches} {result.spec.label}: gradients off by {error}")
    optimizers = [torch.optim.AdamW((p for _, p in parameters(mode)), lr=1e-4) for mode in modes]
    for turn in range(options.rounds):
        order = [(turn + i) % len(modes) for i in range(len(modes))]
        for i in order:
            whole_s, pipeline_s = timed_step(modes[i], optimizers[i])
            results[i].seconds.append(whole_s)
            results[i].pipeline_s.append(pipeline_s)
        say(rank, f"m={work.microbatches} round {turn + 1} of {options.rounds}")
    return results


def say(rank: int, text: str) -> None:
    """Progress, from one rank."""
    if rank == 0:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequence", type=int, default=8192, help="tokens of a sequence")
    parser.add_argument("--microbatches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="modes whose name contains this text")
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (options, folder), nprocs=RANKS)
        parts = [json.loads(Path(folder, f"{m}.json").read_text()) for m in options.microbatches]
    if options.json:
        options.json.write_text(json.dumps(list(chain(*parts)), indent=1))


if __name__ == "__main__":
    main()
