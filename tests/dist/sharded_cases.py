"""Two copies of a pipeline of two ranks on four processes, weights sharded over the copies."""

from collections import Counter

import torch
import torch.distributed as dist
from decoder_cases import ROWS, Case, make_batches, uneven_cuts, unsplit, valid_tokens

from longpipe.ir import SHARDING, Program, segments_from_lengths
from longpipe.model import Build, make_stage
from longpipe.passes import add_sharding
from longpipe.runtime import Boundary, Executor, ShardedStage
from longpipe.runtime.launch import World
from longpipe.runtime.p2p import GlooTransport

COPIES = 2


def program_of(case: Case) -> Program:
    return add_sharding(case.program())


def run_sharded(world: World, cases: tuple[Case, ...]) -> dict[str, tuple[float, dict[str, int]]]:
    """By case: the largest relative error of any gradient here, and events by kind (rank 0's)."""
    pipes = [dist.new_group([copy * 2, copy * 2 + 1]) for copy in range(COPIES)]
    copies = [dist.new_group([rank, rank + 2]) for rank in range(2)]
    copy, rank = divmod(world.rank, 2)
    found = {}
    for case in cases:
        transport = GlooTransport((copy * 2, copy * 2 + 1), pipes[copy])
        found[str(case)] = run_case(world, case, copy, rank, transport, copies[rank])
        transport.close()
    gathered = [None] * world.ranks
    dist.all_gather_object(gathered, found)
    return {
        name: (max(each[name][0] for each in gathered), counts)
        for name, (_, counts) in gathered[0].items()
    }


def run_case(
    world: World, case: Case, copy: int, rank: int, transport: GlooTransport, copies
) -> tuple[float, dict[str, int]]:
    program, config = program_of(case), case.config()
    partition = [range(stage, stage + 1) for stage in range(program.problem.stages)]
    stages = {
        stage: ShardedStage(make_stage(config, partition, stage, Build(torch.float64)), copies)
        for stage in program.placement.stages_of(rank)
    }
    cuts = (segments_from_lengths(uneven_cuts(case.segments)),) * case.microbatches
    boundary = Boundary(ROWS, config.hidden, cuts, torch.float64)
    watchdog = world.watchdog
    executor = Executor(
        program, rank, stages, transport, boundary,
        progress=watchdog.progress, blame=watchdog.blame,
    )  # fmt: skip
    batches = make_batches(config, COPIES * case.microbatches)
    mine = batches[copy * case.microbatches :][: case.microbatches]
    result = executor.run_step(mine, 1 / valid_tokens(batches))
    _, want = unsplit(config, COPIES * case.microbatches)
    errors = [error for stage in stages.values() for error in errors_of(stage, want, copies)]
    kinds = Counter(event.op.kind.value for event in result.events() if event.op.kind in SHARDING)
    return max(errors), dict(kinds)


def errors_of(stage: ShardedStage, want: dict[str, torch.Tensor], copies) -> list[float]:
    """Relative error of each gradient, put together again from the copies' shards."""
    parts = [torch.empty_like(stage.shard) for _ in range(COPIES)]
    dist.all_gather(parts, stage.shard.grad, group=copies)
    flat, start, errors = torch.cat(parts), 0, []
    for name, parameter in stage.module.named_parameters():
        gradient = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
        errors.append(float((gradient - want[name]).abs().max() / want[name].abs().max()))
    return errors
