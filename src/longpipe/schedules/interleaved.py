"""Interleaved 1F1B, in Megatron-LM's order.

The paper's "model chunk" is our chunk, its "virtual stage" our stage, its "device" our rank. The
order is also that of torch's `ScheduleInterleaved1F1B`.
"""

from longpipe.errors import ProblemError
from longpipe.ir import Problem, Schedule
from longpipe.schedules._interleave import interleave
from longpipe.schedules._registry import schedule


@schedule(
    "interleaved",
    title="Interleaved 1F1B",
    paper="Narayanan et al., arXiv:2104.04473",
    chunks=None,
    bubble="(p-1)(F+I+W)/v",
    peak="min((v-1)p + 2(p-r-1) + 1, m v)/v",
    aliases=("interleaved-1f1b",),
)
def build(problem: Problem) -> Schedule:
    """Groups of p micro-batches; warm up with (v-1)p + 2(p-1-r) forwards, then alternate."""
    p, m = problem.ranks, problem.microbatches
    if m % p:
        raise ProblemError(
            f"interleaved takes micro-batches in groups of ranks={p}, got microbatches={m}: "
            f"use microbatches={-(-m // p) * p}, or looped-bfs, which takes any number"
        )
    return interleave(problem, together=p)
