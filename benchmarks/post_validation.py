"""What it gains that the optimizer does not wait for the norm of all ranks: `make
bench-post-validation`.

Steps follow one another on real processes (gloo), with AdamW at their ends, in three ways that take
turns within the run:

- waits: all ranks exchange their rows, then step (optim.post_validation = false);
- steps: post-validation, every update stands;
- takes back: post-validation, and the last rank's row makes every update a clipped one: all ranks
  but that take theirs back and run their early forwards twice.

Slept: an op is a tiny tensor operation and a sleep (F = I = W), so that two cores are enough for
four ranks. Beside it the prediction: steps that wait last a makespan each; without waiting a rank
begins its next step at once, so that a step lasts the longest span (from the first to the last op
of a rank). Decoder: a real one, whose ranks share the machine's cores.

    python -m benchmarks.post_validation [--ranks 4] [--rounds 5]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.slept import Case, Sleepy, costs_for, head, say, slots
from benchmarks.toy import TOKENS, WIDTH
from benchmarks.workload import DECODER, Workload
from longpipe import add_messages, build, simulate
from longpipe.ir import COMPUTE, Problem, Program, segments_from_lengths
from longpipe.runtime import Boundary, Executor, StageModule
from longpipe.runtime.early import early_ops
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.p2p import GlooTransport
from longpipe.schedules import entry
from longpipe.train.config import OptimConfig
from longpipe.train.optim import build_adamw, optimizer_tensors, sum_of_squares
from longpipe.train.peers import Peers
from longpipe.train.post_validation import PostValidation, Undo
from longpipe.train.update import Outcome, Ran, Row, Update

SCHEDULES = ("zb-h2", "zb-v", "zb-h1", "1f1b")
MICROBATCHES = 8
STEPS = 10  # of a round, without a barrier between them
MAX_NORM = 1e6  # above what the gradients have
WAYS = ("waits", "steps", "takes back")
COPIED = 4_000_000  # weights, to time the copy that a rank keeps


@dataclass(frozen=True, slots=True)
class Work:
    """A program and what its ops do: `case` sleeps, else they run the decoder."""

    schedule: str
    program: Program
    case: Case | None = None
    predicted: tuple[float, float] | None = None
    """Seconds of a step that waits, and of one that does not."""

    def modules(self, rank: int) -> dict[int, StageModule]:
        """Those of a rank."""
        owned, stages = self.program.placement.stages_of(rank), self.program.problem.stages
        if self.case is not None:
            return {stage: Sleepy(stage, self.case) for stage in owned}
        return {stage: DECODED.stage(stage, stages) for stage in owned}

    def batches(self) -> Sequence[Any]:
        """One for each micro-batch."""
        if self.case is not None:
            return [torch.randn(1, TOKENS, WIDTH)] * MICROBATCHES
        return DECODED.batches()

    def boundary(self) -> Boundary:
        """Whole sequences."""
        tokens, width = (TOKENS, WIDTH) if self.case else (DECODED.tokens, DECODER.hidden)
        return Boundary(1, width, (segments_from_lengths([tokens]),) * MICROBATCHES)


DECODED = Workload(DECODER, tokens=256, microbatches=MICROBATCHES)


def works(ranks: int) -> Iterator[Work]:
    """All that is timed."""
    for name in SCHEDULES:
        chunks = entry(name).chunks or 1
        problem = Problem(ranks, MICROBATCHES, chunks)
        program = add_messages(build(name, problem))
        model = costs_for("equal", entry(name), problem)
        timeline = simulate(program, model)
        span_s = max(row[-1].end_s - row[0].start_s for row in timeline.rows)
        # the last of a round's steps is settled at its end, so it lasts a makespan as well
        without_s = ((STEPS - 1) * span_s + timeline.makespan_s) / STEPS
        case = Case(name, "equal", program, slots(problem, model, COMPUTE), timeline.makespan_s)
        yield Work(name, program, case, (timeline.makespan_s, without_s))
    for name in SCHEDULES[:2]:
        problem = Problem(ranks, MICROBATCHES, entry(name).chunks or 1)
        yield Work(name, add_messages(build(name, problem)))


class Stepper:
    """Runs steps of one work on one rank."""

    def __init__(self, world: World, work: Work, peers: Peers, chain: GlooTransport) -> None:
        rank = world.rank
        modules = work.modules(rank)
        transport = GlooTransport(range(world.ranks))
        self._parameters = {
            f"{stage}.{name}": parameter
            for stage, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        self._executor = Executor(work.program, rank, modules, transport, work.boundary())
        self._early = early_ops(work.program)[rank]
        self._batches = work.batches()
        self._last = rank + 1 == world.ranks
        optimizer = build_adamw(self._parameters, OptimConfig())
        self._update = Update(
            peers, self._parameters, optimizer, MAX_NORM, refresh=_nothing, not_finite=_nothing
        )
        state = optimizer_tensors(optimizer, self._parameters)
        changed = (*self._parameters.values(), *state.values())
        self._post = PostValidation.over(peers, chain, self._update, changed, after=0)

    def round(self, way: str) -> float:
        """Seconds per step, over STEPS steps that begin and end together on all ranks."""
        dist.barrier()
        began_s = perf_counter()
        for step in range(1, STEPS + 1):
            self._begin()
            for parameter in self._parameters.values():
                parameter.grad = torch.zeros_like(parameter)
            self._executor.finish()
            square = sum_of_squares(self._parameters)
            if way == "takes back" and self._last:
                square += (1e3 * MAX_NORM) ** 2
            ran, row = Ran(step, 1.0, 1e-6), Row(square, 0.0, 0.0, 0.0)
            if way == "waits":
                self._update.together(ran, row)
            else:
                self._post.end(ran, row, settle=step == STEPS)
        dist.barrier()
        return (perf_counter() - began_s) / STEPS

    def _begin(self) -> None:
        """As the trainer does."""
        if self._post.pending is None:
            self._executor.begin(self._batches, 1.0)
            return
        self._executor.begin(self._batches, 1.0, self._early)
        outcome = self._post.hear()
        again = not self._post.stands(outcome)
        if again:
            self._executor.drop()
        self._post.settle(outcome)
        if again:
            self._executor.begin(self._batches, 1.0)


def _nothing(_: Outcome | None = None) -> None:
    """No narrow copies, and nothing that is not finite."""


def run(world: World, everything: list[Work], rounds: int) -> list[dict[str, list[float]]]:
    """One rank: for every work the seconds per step of each way, round by round."""
    torch.set_num_threads(1)
    peers = Peers(world)
    chain = GlooTransport(range(world.ranks), lane=1)
    found = []
    for work in everything:
        stepper = Stepper(world, work, peers, chain)
        stepper.round("steps")  # warms up
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                seconds[way].append(stepper.round(way))
        found.append(seconds)
        if world.rank == 0:
            say(f"{work.schedule}, {'slept' if work.case else 'decoder'}: done")
    return found


def copy_share(rounds: int) -> float:
    """Seconds of the copy that a rank keeps, over those of the optimizer's step after it."""
    parameters = {"w": torch.nn.Parameter(torch.zeros(2000, COPIED // 2000))}
    parameters["w"].grad = torch.ones_like(parameters["w"])
    optimizer = build_adamw(parameters, OptimConfig())
    undo = Undo([*parameters.values(), *optimizer_tensors(optimizer, parameters).values()])
    shares = []
    for _ in range(rounds + 1):
        began_s = perf_counter()
        undo.keep()
        kept_s = perf_counter()
        optimizer.step()
        shares.append((kept_s - began_s) / (perf_counter() - kept_s))
    return median(shares[1:])


def show(ranks: int, everything: list[Work], measured: list[Mapping[str, list[float]]]) -> None:
    """The table."""
    title = f"{head()['date']}, {head()['hardware']}; {ranks} ranks, {MICROBATCHES} micro-batches"
    table = Table(title=title)
    for column in ("schedule", "ops", *(f"{way}, s" for way in WAYS)):
        table.add_column(column, justify="left" if column in ("schedule", "ops") else "right")
    for column in ("steps / waits", "predicted", "takes back / waits"):
        table.add_column(column, justify="right")
    for work, seconds in zip(everything, measured, strict=True):
        rounds = zip(*(seconds[way] for way in WAYS), strict=True)
        ratios = [(steps / waits, back / waits) for waits, steps, back in rounds]
        kept, back = (median(column) for column in zip(*ratios, strict=True))
        predicted = f"{work.predicted[1] / work.predicted[0]:.3f}" if work.predicted else ""
        table.add_row(
            work.schedule,
            "slept" if work.case else "decoder",
            *(f"{median(seconds[way]):.4f}" for way in WAYS),
            f"{kept:.3f}",
            predicted,
            f"{back:.3f}",
        )
    console = Console()
    Console(width=max(console.width, 110)).print(table)


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5, help="of which the medians count")
    options = parser.parse_args()
    torch.set_num_threads(1)
    everything = list(works(options.ranks))
    measured = launch(
        run, everything, options.rounds, options=Launch(ranks=options.ranks, threads=1)
    )
    show(options.ranks, everything, measured)
    share = copy_share(options.rounds)
    Console().print(f"the copy of {COPIED:,} weights and their state: {share:.2f} of an AdamW step")


if __name__ == "__main__":
    main()
