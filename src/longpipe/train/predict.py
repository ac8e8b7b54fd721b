"""What a step will cost, before the first one: measured op by op, then simulated."""

from dataclasses import dataclass

from longpipe.cost import MeasuredCosts
from longpipe.data import Batch
from longpipe.ir import Timeline
from longpipe.runtime import Boundary, Executor, Transport
from longpipe.runtime.launch import World
from longpipe.runtime.memory import meter_for
from longpipe.runtime.profile import measure_costs
from longpipe.runtime.trace import gather_timeline
from longpipe.simulate import simulate
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


def forecast(
    world: World, job: Job, part: Part, transport: Transport, boundary: Boundary, batch: Batch
) -> Forecast:
    """Measure and simulate; every rank calls this at the same point. Gradients are 0 afterwards.

    `batch` is a step's; its first micro-batch stands for all.
    """
    program = job.layout.program
    made = microbatches(batch, world.device)
    costs = measure_costs(
        program, world.rank, part.stages, made[0], boundary, transport, world.store
    )
    with meter_for(world.device) as meter:
        executor = Executor(
            program,
            world.rank,
            part.stages,
            transport,
            boundary,
            progress=world.watchdog.progress,
            blame=world.watchdog.blame,
            meter=meter,
        )
        result = executor.run_step(made, 1.0 / max(1, batch.global_valid_tokens))
    part.zero_gradients()
    rehearsed = gather_timeline(program, result.events(), world.store, world.rank, key="rehearsal")
    return Forecast(costs, simulate(program, costs), rehearsed)
