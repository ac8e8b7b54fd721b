"""Real steps with one group after another, over the same stages and a network that is late."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from decoder_cases import (
    ROWS,
    Case,
    errors_of,
    make_batches,
    sum_ties,
    uneven_cuts,
    valid_tokens,
)

from longpipe.ir import Problem, segments_from_lengths
from longpipe.model import Build, make_stage, share_ties
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
    problem = Problem(case.ranks, case.microbatches, segments=case.segments)
    config = case.config()
    partition = [range(stage, stage + 1) for stage in range(case.ranks)]
    modules = {world.rank: make_stage(config, partition, world.rank, Build(torch.float64))}
    share_ties(modules)
    cuts = (segments_from_lengths(uneven_cuts(case.segments)),) * case.microbatches
    boundary = Boundary(ROWS, config.hidden, cuts, torch.float64)
    programs = {
        turn.group: add_messages(build(case.name, problem, group=turn.group)) for turn in turns
    }
    first = programs[turns[0].group]
    transport = DelayedTransport(transport_for(first, world.rank, range(world.ranks), world.device))
    executors = {}
    for group, program in programs.items():
        validate(program)
        executors[group] = Executor(program, world.rank, modules, transport, boundary)
    batches = make_batches(config, case.microbatches)
    found = []
    for number, turn in enumerate(turns):
        for module in modules.values():
            module.zero_grad()
        transport.delay_s = turn.delay_s
        result = executors[turn.group].run_step(batches, 1 / valid_tokens(batches))
        digest = sha256()
        for module in modules.values():
            for _, parameter in module.named_parameters():
                assert parameter.grad is not None
                digest.update(parameter.grad.numpy().tobytes())
        sum_ties(config, modules, world)
        worst = max(errors_of(case, result.loss_sum, modules).values())
        key = f"turn/{number}"
        world.store.set(f"{key}/{world.rank}", f"{worst!r} {digest.hexdigest()}")
        told = [world.store.get(f"{key}/{rank}").decode().split() for rank in range(world.ranks)]
        found.append((max(float(error) for error, _ in told), tuple(hash_ for _, hash_ in told)))
    transport.close()
    return found
