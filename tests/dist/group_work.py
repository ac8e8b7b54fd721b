"""Real steps with one group after another, over the same stages and a network that is late."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from decoder_cases import (
    ROWS,
    Case,
    errors_of,
    make_batches,
    sum_shared,
    uneven_cuts,
    valid_tokens,
)

from longpipe.ir import Problem, segments_from_lengths
from longpipe.model import Build, DecoderStage, make_stage, share_ties
from longpipe.passes import add_messages
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.delayed import DelayedTransport
from longpipe.runtime.launch import World
from longpipe.runtime.p2p import transport_for
from longpipe.schedules import build
from longpipe.validate import validate


@dataclass(frozen=True)
class Turn:
    """A step with this group, its messages held for `delay_s`."""

    group: int
    delay_s: float


def run_turns(
    world: World, case: Case, turns: tuple[Turn, ...]
) -> list[tuple[float, tuple[str, ...]]]:
    """For each step the largest error of a loss or gradient, and a digest of each rank's gradients.

    A step begins from gradients of 0, with the executors that all steps share.
    """
    config = case.config()
    partition = [range(stage, stage + 1) for stage in range(case.ranks)]
    modules = {world.rank: make_stage(config, partition, world.rank, Build(torch.float64))}
    share_ties(modules)
    transport, executors = connect(world, case, modules, {turn.group for turn in turns})
    batches = make_batches(config, case.microbatches)
    found = []
    for number, turn in enumerate(turns):
        modules[world.rank].zero_grad()
        transport.delay_s = turn.delay_s
        result = executors[turn.group].run_step(batches, 1 / valid_tokens(batches))
        mine = digest(modules[world.rank])
        sum_shared(case, modules)
        worst = max(errors_of(case, result.loss_sum, modules).values())
        world.store.set(f"turn/{number}/{world.rank}", f"{worst!r} {mine}")
        told = [
            world.store.get(f"turn/{number}/{rank}").decode().split() for rank in range(world.ranks)
        ]
        found.append((max(float(error) for error, _ in told), tuple(each for _, each in told)))
    transport.close()
    return found


def connect(
    world: World, case: Case, modules: dict[int, DecoderStage], groups: set[int]
) -> tuple[DelayedTransport, dict[int, Executor]]:
    """One transport for all, and an executor for each group over the same stages."""
    problem = Problem(case.ranks, case.microbatches, segments=case.segments)
    programs = {
        group: add_messages(build(case.name, problem, group=group)) for group in sorted(groups)
    }
    cuts = (segments_from_lengths(uneven_cuts(case.segments)),) * case.microbatches
    boundary = Boundary(ROWS, case.config().hidden, cuts, torch.float64)
    inner = transport_for(programs[1], world.rank, range(world.ranks), world.device)
    transport = DelayedTransport(inner)
    executors = {}
    for group, program in programs.items():
        validate(program)
        executors[group] = Executor(program, world.rank, modules, transport, boundary)
    return transport, executors


def digest(module: DecoderStage) -> str:
    """All bits of a stage's gradients."""
    found = sha256()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found.update(parameter.grad.numpy().tobytes())
    return found.hexdigest()
