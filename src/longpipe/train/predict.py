"""What a step will cost, before the first one: measured op by op, then simulated."""

from collections.abc import Sequence
from dataclasses import dataclass

from longpipe.cost import MeasuredCosts
from longpipe.data import Batch
from longpipe.ir import Program, Timeline
from longpipe.model import MicroBatch
from longpipe.runtime import Boundary, Executor, Transport
from longpipe.runtime.launch import World
from longpipe.runtime.memory import meter_for
from longpipe.runtime.profile import measure_costs
from longpipe.runtime.trace import gather_timeline
from longpipe.simulate import simulate
from longpipe.train.candidates import first_group
from longpipe.train.job import Job
from longpipe.train.part import Part, microbatches


@dataclass(frozen=True, slots=True)
class Forecast:
    """The costs of every op on this machine, and the step that follows from them.

    `rehearsed` is a step that ran with a memory meter, and so more slowly than others; it is None
    on all ranks but the first.
    """

    costs: MeasuredCosts
    predicted: Timeline
    rehearsed: Timeline | None


def forecasts(
    world: World, job: Job, part: Part, transport: Transport, boundary: Boundary, batch: Batch
) -> dict[int, Forecast]:
    """Measure and simulate; every rank calls this at the same point. Gradients are 0 afterwards.

    `batch` is a step's; its first micro-batch stands for all. By group: one for each program that
    the run may go on with, so that one which does not fit fails now and not after hours.
    """
    layout = job.layout
    made = microbatches(batch, world.device)
    costs = measure_costs(
        layout.program, world.rank, part.stages, made[0], boundary, transport, world.store
    )
    rehearsal = _Rehearsal(world, part, transport, boundary, made, batch.global_valid_tokens)
    programs = layout.candidates or {first_group(job.config): layout.program}
    return {
        group: Forecast(
            costs, simulate(program, costs), rehearsal.run(program, f"rehearsal {group}")
        )
        for group, program in programs.items()
    }


@dataclass(frozen=True, slots=True)
class _Rehearsal:
    """A step without consequences."""

    world: World
    part: Part
    transport: Transport
    boundary: Boundary
    batches: Sequence[MicroBatch]
    valid_tokens: int

    def run(self, program: Program, key: str) -> Timeline | None:
        """The step as it ran, with its memory, on the first rank."""
        world = self.world
        with meter_for(world.device) as meter:
            executor = Executor(
                program,
                world.rank,
                self.part.stages,
                self.transport,
                self.boundary,
                progress=world.watchdog.progress,
                blame=world.watchdog.blame,
                meter=meter,
            )
            result = executor.run_step(self.batches, 1.0 / max(1, self.valid_tokens))
        self.part.zero_gradients()
        return gather_timeline(program, result.events(), world.store, world.rank, key=key)
