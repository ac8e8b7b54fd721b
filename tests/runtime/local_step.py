"""One step of a Program over the toy model, all ranks in this process."""

import torch
from toy_stages import HIDDEN, ToyStage, make_batches, scale_of, summed_gradients

from longpipe.ir import Event, Problem, Program, segments_from_lengths
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.local import LocalFabric, run_ranks

BATCH = 2
CPU = torch.device("cpu")


def uneven(segments: int) -> tuple[int, ...]:
    """Lengths that differ, the first the longest."""
    return tuple(9 - 2 * seg if seg < 4 else 2 for seg in range(segments))


def boundary_of(problem: Problem, device: torch.device = CPU) -> Boundary:
    """Uneven cuts; micro-batches with fewer segments are shorter."""
    cuts = tuple(
        segments_from_lengths(uneven(problem.segments_of(mb))) for mb in range(problem.microbatches)
    )
    return Boundary(BATCH, HIDDEN, cuts, torch.float64, device)


def batches_of(problem: Problem, device: torch.device = CPU):
    """Micro-batches as long as their cuts."""
    longest = sum(uneven(problem.segments_max))
    whole = make_batches(problem.microbatches, BATCH, longest)
    ends = [sum(uneven(problem.segments_of(mb))) for mb in range(problem.microbatches)]
    return tuple(
        type(batch)(batch.tokens[:, :end].to(device), batch.labels[:, :end].to(device))
        for batch, end in zip(whole, ends, strict=True)
    )


def run_local(
    program: Program,
    *,
    rendezvous: bool = True,
    stage=ToyStage,
    steps: int = 1,
    timeout_s: float = 20,
    device: torch.device = CPU,
):
    """(loss sum, gradients by name, events by rank) of a step; threads play the ranks."""
    problem = program.problem
    boundary, batches = boundary_of(problem, device), batches_of(problem, device)
    fabric = LocalFabric(problem.ranks, rendezvous=rendezvous, timeout_s=timeout_s)

    def work(rank: int) -> tuple[torch.Tensor | None, dict, tuple[Event, ...]]:
        torch.set_num_threads(1)
        modules = {
            index: stage(index, problem.stages).to(device)
            for index in program.placement.stages_of(rank)
        }
        executor = Executor(program, rank, modules, fabric.transport(rank), boundary)
        for _ in range(steps):
            result = executor.run_step(batches, scale_of(batches))
        return result.loss_sum, modules, result.events()

    found = run_ranks(fabric, work)
    loss = sum(loss for loss, _, _ in found if loss is not None)  # two ranks may have a part of it
    modules = [module for _, held, _ in found for module in held.values()]
    return loss, summed_gradients(modules), [events for _, _, events in found]
