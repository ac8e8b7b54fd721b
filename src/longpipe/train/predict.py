"""What a step will cost, before the first one: measured op by op, then simulated."""

from dataclasses import dataclass

import torch.distributed as dist

from longpipe.cost.analytic import AnalyticCosts, Device
from longpipe.cost.comm import Link
from longpipe.ir import Event, Timeline
from longpipe.runtime import Boundary, Transport
from longpipe.runtime.launch import World
from longpipe.simulate import simulate, title
from longpipe.train.job import Job
from longpipe.train.part import Part


@dataclass(frozen=True, slots=True)
class Forecast:
    """The simulated step."""

    predicted: Timeline


def forecast(
    world: World, job: Job, part: Part, transport: Transport, boundary: Boundary
) -> Forecast:
    layout = job.layout
    costs = AnalyticCosts(
        layout.plan.problem, layout.shape, layout.load, Device(5e10), Link(1e-4, 1e9)
    )
    return Forecast(simulate(layout.program, costs))


def measured_timeline(job: Job, events: tuple[Event, ...]) -> Timeline:
    found: list[tuple[Event, ...]] = [()] * dist.get_world_size()
    dist.all_gather_object(found, events)
    t0 = min(row[0].start_s for row in found)
    rows = tuple(
        tuple(e._replace(start_s=e.start_s - t0, end_s=e.end_s - t0) for e in row) for row in found
    )
    return Timeline(title(job.layout.program), "measured", rows)
