"""The runtime on a GPU: a whole pipeline in one process, and NCCL where there are two GPUs."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from local_step import batches_of, boundary_of, run_local
from test_gradients import check
from toy_stages import ToyStage, scale_of, summed_gradients

from longpipe.ir import COMPUTE, Problem
from longpipe.passes import add_messages
from longpipe.runtime import Executor
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.local import LocalFabric
from longpipe.runtime.memory import meter_for
from longpipe.runtime.p2p import transport_for
from longpipe.schedules import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CASES = [
    ("1f1b", Problem(4, 3)),
    ("zb-v", Problem(2, 4, 2)),
    ("seq1f1b", Problem(4, 3, 1, segments=4)),
    ("seq-zb-h1", Problem(2, 3, 1, segments=4)),
]


@pytest.mark.parametrize(("name", "problem"), CASES, ids=[name for name, _ in CASES])
def test_a_pipeline_in_one_process_gives_the_unsplit_gradients(name, problem):
    program = add_messages(build(name, problem))
    loss, gradients, events = run_local(program, device=torch.device("cuda", 0))
    check(loss.cpu(), {key: value.cpu() for key, value in gradients.items()}, problem)
    for row, measured in zip(program.rows, events, strict=True):
        assert [op for op in row if op.kind in COMPUTE] == [event.op for event in measured]
        starts = [event.start_s for event in measured]
        assert starts == sorted(starts), "the device ran the ops in the program's order"


def test_memory_on_a_device():
    device = torch.device("cuda", 0)
    problem = Problem(1, 2, 1, segments=3)
    program = add_messages(build("seq1f1b", problem))
    batches = batches_of(problem, device)
    with meter_for(device) as meter:
        module = ToyStage(0, 1).to(device)
        transport = LocalFabric(1).transport(0)
        boundary = boundary_of(problem, device)
        executor = Executor(program, 0, {0: module}, transport, boundary, meter=meter)
        events = executor.run_step(batches, scale_of(batches)).events()
    assert all(event.peak >= event.memory > 0 for event in events)


def nccl_step(world: World) -> dict[str, torch.Tensor]:
    """This rank's gradients of one step of seq-zb-h1 over NCCL, on the CPU."""
    problem = Problem(2, 3, 1, segments=4)
    program = add_messages(build("seq-zb-h1", problem))
    module = ToyStage(world.rank, 2).to(world.device)
    transport = transport_for(program, world.rank, range(2), world.device)
    batches = batches_of(problem, world.device)
    boundary = boundary_of(problem, world.device)
    executor = Executor(program, world.rank, {world.rank: module}, transport, boundary)
    for _ in range(2):
        module.zero_grad(set_to_none=True)
        executor.run_step(batches, scale_of(batches))
    found = {name: grad.cpu() for name, grad in summed_gradients([module]).items()}
    transport.close()
    return found


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_ranks_over_nccl():
    found = launch(nccl_step, options=Launch(ranks=2, device="cuda"))
    program = add_messages(build("seq-zb-h1", Problem(2, 3, 1, segments=4)))
    _, want, _ = run_local(program)
    for name in ("up0", "key0"):
        torch.testing.assert_close(found[name], want[name], rtol=1e-10, atol=0)
