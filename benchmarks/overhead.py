"""What the runtime adds to each compute op, in microseconds, beside an eager loop.

One process and one thread run the same tiny stages (Linear(8, 8)) over the same ops: by a plain
loop that calls the module and autograd, by longpipe's executor, and by torch's
`_PipelineScheduleRuntime`. Rounds alternate, so that noise hits all alike; the figure is the
median over the rounds of (executor - eager loop) / compute ops, in CPU time of the one thread.

    python -m benchmarks.overhead
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from statistics import median
from time import thread_time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime

from benchmarks.toy import TOKENS, WIDTH, Tiny
from longpipe.ir import COMPUTE, Kind, Op, Placement, Problem, Schedule, segments_from_lengths
from longpipe.passes import add_messages
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.local import LocalFabric

MICROBATCHES = 64
Step = Callable[[], object]


def make_schedule(stages: int, split: bool) -> Schedule:
    """All stages on one rank; F of each stage, then its backward, one micro-batch at a time."""
    problem = Problem(ranks=1, microbatches=MICROBATCHES, chunks=stages)
    row: list[Op] = []
    for mb in range(MICROBATCHES):
        row += [Op(Kind.F, stage, mb) for stage in range(stages)]
        for stage in reversed(range(stages)):
            row += [Op(kind, stage, mb) for kind in ((Kind.I, Kind.W) if split else (Kind.B,))]
    return Schedule("bench", problem, Placement(1, ((0,) * stages,)), (tuple(row),))


def ours(schedule: Schedule, batches) -> Step:
    """longpipe's executor."""
    count = schedule.problem.stages
    modules = {stage: Tiny(stage, count) for stage in range(count)}
    cuts = (segments_from_lengths([TOKENS]),) * MICROBATCHES
    transport = LocalFabric(1).transport(0)
    boundary = Boundary(1, WIDTH, cuts)
    executor = Executor(add_messages(schedule), 0, modules, transport, boundary)
    return lambda: executor.run_step(batches, 1.0)


def eager(schedule: Schedule, batches) -> Step:
    """The same ops by a plain loop: modules, autograd, and a dictionary of what lies between."""
    count = schedule.problem.stages
    modules = [Tiny(stage, count) for stage in range(count)]

    def step() -> None:
        saved, outputs, gradients = {}, {}, {}
        for kind, stage, mb, _ in schedule.rows[0]:
            module = modules[stage]
            if kind is Kind.F:
                x = outputs.pop(mb).requires_grad_() if stage else None
                y = module(x, batches[mb], None)
                saved[stage, mb] = (x, y)
                outputs[mb] = y.detach()
            elif kind is Kind.W:
                module.weight_queue.run(mb)
            else:
                x, y = saved.pop((stage, mb))
                if kind is Kind.I:
                    with module.weight_queue.defer(mb):
                        y.backward(gradients.pop(mb, None))
                else:
                    y.backward(gradients.pop(mb, None))
                if x is not None:
                    gradients[mb] = x.grad

    return step


def torchs(schedule: Schedule, batches) -> Step:
    """torch's runtime over the same ops."""
    count = schedule.problem.stages
    inner = batches[0].clone().requires_grad_()
    stages = [
        PipelineStage(
            nn.Linear(WIDTH, WIDTH, bias=False), stage, count, torch.device("cpu"),
            input_args=(inner if stage else batches[0],), output_args=(inner,),
        )
        for stage in range(count)
    ]  # fmt: skip
    runtime = _PipelineScheduleRuntime(
        stages, MICROBATCHES, loss_fn=lambda y, _: y.sum(), scale_grads=False
    )
    actions = {0: [_Action.from_str(str(op)) for op in schedule.rows[0]]}
    runtime._prepare_schedule_with_comms(actions, format="compute_only")
    whole = torch.cat(batches)
    target = torch.zeros(MICROBATCHES, 1)
    return lambda: runtime.step(whole, target=target, return_outputs=False)


def time_rounds(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step in each round; every round runs all of them."""
    for step in steps.values():
        for _ in range(5):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin_s = thread_time()
            step()
            found[name].append(thread_time() - begin_s)
    return found


def measure(stages: int, split: bool, rounds: int, with_torch: bool) -> dict[str, float]:
    """Microseconds per compute op: of the eager loop, and what each runtime adds to it."""
    schedule = make_schedule(stages, split)
    ops = sum(op.kind in COMPUTE for op in schedule.rows[0])
    batches = [torch.randn(1, TOKENS, WIDTH) for _ in range(MICROBATCHES)]
    steps = {"eager": eager(schedule, batches), "longpipe": ours(schedule, batches)}
    if with_torch:
        steps["torch"] = torchs(schedule, batches)
    seconds = time_rounds(steps, rounds)
    found = {"eager_us": median(seconds["eager"]) / ops * 1e6}
    for name in list(steps)[1:]:
        added = [s - e for s, e in zip(seconds[name], seconds["eager"], strict=True)]
        found[f"{name}_adds_us"] = median(added) / ops * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--no-torch", action="store_true", help="leave torch's runtime out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        found = {
            f"{stages} stage{'s' * (stages > 1)}, {'I and W' if split else 'B'}": measure(
                stages, split, options.rounds, not options.no_torch
            )
            for stages in (1, 2, 4)
            for split in (False, True)
        }
        dist.destroy_process_group()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print("microseconds per compute op, medians of interleaved rounds")
    for case, row in found.items():
        told = "  ".join(f"{name.removesuffix('_us')} {value:6.1f}" for name, value in row.items())
        print(f"{case:22} {told}")


if __name__ == "__main__":
    main()
