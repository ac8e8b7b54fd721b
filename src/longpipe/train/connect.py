"""The connections between a run's ranks, and the proof that all of them mean the same run."""

from longpipe.runtime import Boundary, Transport
from longpipe.runtime.agree import agree, facts_of
from longpipe.runtime.delayed import DelayedTransport
from longpipe.runtime.launch import World
from longpipe.runtime.p2p import GlooTransport, transport_for
from longpipe.train.job import Job
from longpipe.train.peers import Peers


def prove_alike(world: World, job: Job, boundary: Boundary, data: str) -> None:
    """Raise RunError, on all ranks, unless they have the same programs, model, config and data."""
    layout = job.layout
    others = {
        f"program of group {group}": facts_of(program, boundary)["program"]
        for group, program in layout.candidates.items()
    }
    own = {"configuration": job.config.digest(), "data": data, "model": repr(job.model)}
    facts = facts_of(layout.program, boundary) | others | own
    agree(world.store, world.rank, world.ranks, facts)


def transports(world: World, job: Job, peers: Peers) -> tuple[Transport, Transport]:
    """For the pipeline's messages, and for the optimizer's between neighbours (the chain)."""
    ranks, delay_s = range(world.ranks), job.config.train.send_delay_s
    pipeline = transport_for(job.layout.program, world.rank, ranks, world.device)
    chain = GlooTransport(ranks, peers.group, lane=1)
    if not delay_s:
        return pipeline, chain
    return DelayedTransport(pipeline, delay_s), DelayedTransport(chain, delay_s)
