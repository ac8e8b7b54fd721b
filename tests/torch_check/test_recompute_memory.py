"""The peak of a whole step with recompute is the predicted one: analytic costs against a meter."""

import pytest
import torch

from longpipe.cost import AnalyticCosts, DecoderShape, Device, Link, Load
from longpipe.ir import Problem, segments_from_lengths
from longpipe.model import DecoderConfig, DecoderStage, MicroBatch
from longpipe.passes import add_messages, recompute
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.local import LocalFabric
from longpipe.runtime.memory import MemoryMeter
from longpipe.schedules import build
from longpipe.simulate import measure, simulate

CONFIG = DecoderConfig(64, 3, heads=4, kv_heads=2, head_dim=16, intermediate=176, vocab=300)


@pytest.mark.parametrize("mode", ["none", "full", "selective"])
@pytest.mark.parametrize("lengths", [(192,), (90, 60, 42)], ids=str)
@pytest.mark.parametrize("name", ["gpipe", "seq1f1b", "seq-zb-h1"])
def test_peak_of_a_step(name: str, lengths: tuple[int, ...], mode: str) -> None:
    torch.set_num_threads(1)
    problem = Problem(1, 3, segments=len(lengths))
    schedule = build(name, problem)
    if mode != "none":
        schedule = recompute(schedule)
    stage = DecoderStage(CONFIG, range(3))
    stage.keeps_attention = mode == "selective"
    for parameter in stage.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.randint(CONFIG.vocab, (1, sum(lengths)))
    batches = [MicroBatch.whole(tokens, tokens)] * problem.microbatches
    boundary = Boundary(1, CONFIG.hidden, (segments_from_lengths(lengths),) * 3)
    transport = LocalFabric(1).transport(0)
    with MemoryMeter() as meter:
        program = add_messages(schedule)
        executor = Executor(program, 0, {0: stage}, transport, boundary, meter=meter)
        executor.run_step(batches, 1e-3)  # makes the rotary table, which is not counted
        start = meter.current_bytes
        events = executor.run_step(batches, 1e-3).events()
    load = Load((3,), (lengths,), 1, 4, 4, keeps_attention=mode == "selective")
    shape = DecoderShape.from_hf(CONFIG.to_hf())
    costs = AnalyticCosts(problem, shape, load, Device(1.0), Link(0.0, 1.0))
    predicted = measure(simulate(schedule, costs)).peak_memory
    assert predicted is not None
    measured = max(event.peak or 0 for event in events) - start
    assert measured == pytest.approx(predicted[0], rel=0.02)
