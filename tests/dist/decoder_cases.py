"""Runs many schedules over the real decoder in one set of processes; compares every gradient."""

import json
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
from unsplit_decoder import loss_sum

from longpipe.ir import COMPUTE, Problem, Program, segments_from_lengths
from longpipe.model import (
    Build,
    DecoderConfig,
    DecoderStage,
    MicroBatch,
    make_stage,
    parameter_shapes,
    share_ties,
)
from longpipe.model.split import holders
from longpipe.passes import add_messages, recompute, stages_named
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.launch import World
from longpipe.runtime.p2p import transport_for
from longpipe.runtime.transport import Transport
from longpipe.runtime.watchdog import Watchdog
from longpipe.schedules import build
from longpipe.validate import validate

TOKENS = 29
ROWS = 2


@dataclass(frozen=True)
class Case:
    """One schedule over one problem; `family` picks the decoder's features.

    `recompute` is none, full or selective, on the stages that `redone` names.
    """

    name: str
    ranks: int
    microbatches: int
    chunks: int = 1
    segments: int = 1
    family: str = "qwen3"
    recompute: str = "none"
    redone: str = "all"

    def __str__(self) -> str:
        sizes = f"m{self.microbatches}-v{self.chunks}-k{self.segments}"
        again = "" if self.recompute == "none" else f"-{self.recompute}-{self.redone}"
        return f"{self.name}-p{self.ranks}-{sizes}-{self.family}{again}"

    def program(self) -> Program:
        problem = Problem(self.ranks, self.microbatches, self.chunks, self.segments)
        schedule = build(self.name, problem)
        if self.recompute != "none":
            schedule = recompute(schedule, stages_named(self.redone, schedule.placement))
        program = add_messages(schedule)
        validate(program)
        return program

    def config(self) -> DecoderConfig:
        """Tied with QK norm (qwen3), or untied with biases (qwen2)."""
        qwen3 = self.family == "qwen3"
        return DecoderConfig(
            hidden=16, layers=self.ranks * self.chunks, heads=4, kv_heads=2, head_dim=4,
            intermediate=24, vocab=31, tied=qwen3, qk_norm=qwen3, qkv_bias=not qwen3,
            init_std=0.2, model_type=self.family,
        )  # fmt: skip


def uneven_cuts(segments: int) -> tuple[int, ...]:
    """Lengths that sum to TOKENS, none equal to its neighbour."""
    weights = [segments - index + 0.5 * (index % 2) for index in range(segments)]
    lengths = [max(1, int(TOKENS * weight / sum(weights))) for weight in weights]
    lengths[0] += TOKENS - sum(lengths)
    return tuple(lengths)


def make_batches(config: DecoderConfig, microbatches: int) -> tuple[MicroBatch, ...]:
    """Packed rows: documents that begin in different places in each row and micro-batch."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for mb in range(microbatches):
        shape = (ROWS, TOKENS)
        tokens = torch.randint(config.vocab, shape, generator=draw)
        labels = torch.randint(config.vocab, shape, generator=draw)
        labels[:, : 2 + mb] = -100
        found.append(MicroBatch(tokens, labels, ((0, 5, 6, 17 + mb % 8), (0, 11 + mb % 3))))
    return tuple(found)


def valid_tokens(batches: tuple[MicroBatch, ...]) -> int:
    return sum(int((batch.labels != -100).sum()) for batch in batches)


@cache
def unsplit(config: DecoderConfig, microbatches: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss sum and gradients by the plain decoder."""
    whole = DecoderStage(config, range(config.layers), build=Build(torch.float64))
    weights = {name: p.detach().requires_grad_() for name, p in whole.named_parameters()}
    batches = make_batches(config, microbatches)
    total = sum(loss_sum(config, weights, batch) for batch in batches)
    (total / valid_tokens(batches)).backward()
    return float(total.detach()), {name: weight.grad for name, weight in weights.items()}


def run_stages(
    case: Case, rank: int, transport: Transport, watchdog: Watchdog | None = None
) -> tuple[torch.Tensor | None, dict[int, DecoderStage]]:
    """One step of one rank: its loss sum (if it has the last stage), its stages with gradients."""
    program, config = case.program(), case.config()
    partition = [range(stage, stage + 1) for stage in range(program.problem.stages)]
    modules = {
        stage: make_stage(config, partition, stage, Build(torch.float64))
        for stage in program.placement.stages_of(rank)
    }
    share_ties(modules)
    for module in modules.values():
        module.keeps_attention = case.recompute == "selective"
    cuts = (segments_from_lengths(uneven_cuts(case.segments)),) * case.microbatches
    boundary = Boundary(ROWS, config.hidden, cuts, torch.float64)
    watch = {} if watchdog is None else {"progress": watchdog.progress, "blame": watchdog.blame}
    executor = Executor(program, rank, modules, transport, boundary, **watch)
    batches = make_batches(config, case.microbatches)
    result = executor.run_step(batches, 1 / valid_tokens(batches))
    row = [op for op in program.rows[rank] if op.kind in COMPUTE]
    assert [event.op for event in result.events()] == row, "measured order is not the program's"
    return result.loss_sum, modules


def errors_of(
    case: Case, loss_sum: torch.Tensor | None, modules: dict[int, DecoderStage]
) -> dict[str, float]:
    """Relative errors by parameter name; the loss's under "loss"."""
    want_loss, want = unsplit(case.config(), case.microbatches)
    errors = {}
    if loss_sum is not None:
        errors["loss"] = abs(float(loss_sum) - want_loss) / want_loss
    for module in modules.values():
        for name, parameter in module.named_parameters():
            difference = (parameter.grad - want[name]).abs().max()
            errors[name] = float(difference / want[name].abs().max())
    return errors


def run_case(world: World, case: Case) -> dict[str, float]:
    """This rank's errors, its transport being torch.distributed's."""
    transport = transport_for(case.program(), world.rank, range(world.ranks), world.device)
    loss_sum, modules = run_stages(case, world.rank, transport, world.watchdog)
    transport.close()
    sum_shared(case, modules)
    total = torch.zeros((), dtype=torch.float64) if loss_sum is None else loss_sum
    dist.all_reduce(total)  # the last stage may lie on several ranks
    return errors_of(case, total, modules)


def sum_shared(case: Case, modules: dict[int, DecoderStage]) -> None:
    """Add up the gradients of parameters on several ranks: tied embeddings, replicated stages."""
    config, placement = case.config(), case.program().placement
    partition = [range(stage, stage + 1) for stage in range(placement.stages)]
    shapes = parameter_shapes(config)
    mine = {name: p.grad for m in modules.values() for name, p in m.named_parameters()}
    for name, stages in holders(config, partition).items():
        if len({rank for stage in stages for rank in placement.ranks_of(stage)}) > 1:
            absent = torch.zeros(shapes[name], dtype=torch.float64)
            dist.all_reduce(mine.get(name, absent))


def run_cases(world: World, cases: tuple[Case, ...]) -> dict[str, dict[str, float]]:
    """For each case the errors of all ranks together."""
    found: dict[str, dict[str, float]] = {}
    for case in cases:
        mine = run_case(world, case)
        world.store.set(f"errors/{case}/{world.rank}", json.dumps(mine))
        together: dict[str, float] = {}
        for rank in range(world.ranks):
            theirs = json.loads(world.store.get(f"errors/{case}/{rank}"))
            together |= {name: max(e, together.get(name, 0)) for name, e in theirs.items()}
        found[str(case)] = together
    return found
