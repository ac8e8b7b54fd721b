"""Profiles, links, the meter and the measured timeline, over the in-process transport."""

from itertools import pairwise

import pytest
import torch
from local_step import batches_of, boundary_of, run_local
from toy_stages import ToyStage, scale_of

from longpipe.ir import COMPUTE, Event, Kind, Op, Problem, segments_from_lengths
from longpipe.model import DecoderConfig, DecoderStage, MicroBatch
from longpipe.passes import add_messages
from longpipe.runtime import Boundary, Executor
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.runtime.memory import MemoryMeter
from longpipe.runtime.profile import measure_costs, profile_stage
from longpipe.runtime.store import process_store
from longpipe.runtime.trace import clock_offset_s, gather_timeline, timeline_of
from longpipe.schedules import build

PROBLEM = Problem(2, 2, 1, segments=3)


def toy(stage: int):
    return ToyStage(stage, 2), batches_of(PROBLEM)[0], boundary_of(PROBLEM)


def decoder(stage: int):
    config = DecoderConfig(
        hidden=16, layers=2, heads=4, kv_heads=2, head_dim=4, intermediate=24, vocab=31
    )
    module = DecoderStage(config, range(stage, stage + 1), first=stage == 0, last=stage == 1)
    tokens = torch.arange(60).reshape(2, 30) % 31
    cuts = (segments_from_lengths([14, 10, 6]),)
    return module, MicroBatch.whole(tokens, tokens), Boundary(2, 16, cuts)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("make", [toy, decoder])
def test_a_stage_gives_back_all_that_it_holds(make, stage, split, recompute):
    module, batch, boundary = make(stage)
    costs = profile_stage(module, stage, 2, boundary, batch, split=split, recompute=recompute)
    kinds = (Kind.F, Kind.I, Kind.W) if split else (Kind.F, Kind.B)
    kinds += (Kind.R,) if recompute else ()
    assert {(cost.kind, cost.seg) for cost in costs} == {(k, s) for k in kinds for s in range(3)}
    assert all(cost.time_s > 0 and cost.stage == stage for cost in costs)
    assert all(cost.peak_bytes >= cost.held_bytes for cost in costs)
    assert {cost.kind for cost in costs if cost.light} == ({Kind.F} if recompute else set())
    kept = Kind.R if recompute else Kind.F
    assert all(cost.held_bytes > 0 for cost in costs if cost.kind is kept)
    scalars = 2 * boundary.dtype.itemsize if stage else 0  # loss sum and seed, for the whole step
    assert sum(cost.held_bytes for cost in costs) == scalars
    assert all(not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["seq1f1b", "seq-zb-h1"])
def test_every_rank_gets_the_costs_of_the_whole_pipeline(name):
    program = add_messages(build(name, PROBLEM))
    fabric, store = LocalFabric(2), process_store()

    def work(rank: int):
        return measure_costs(
            program, rank, {rank: ToyStage(rank, 2)}, batches_of(PROBLEM)[0],
            boundary_of(PROBLEM), fabric.transport(rank), store, repeats=1,
        )  # fmt: skip

    first, second = run_ranks(fabric, work)
    assert first == second
    for op in (op for row in program.rows for op in row if op.kind in COMPUTE):
        assert first.ticks(op) > 0
    for source, destination in ((0, 1), (1, 0)):
        assert first.delay(Op(Kind.F, source, 0, 0), source, destination) > 0
    assert first.message_bytes[0] == 2 * 9 * 6 * 8


def test_the_meter_follows_storages_not_tensors():
    outside = torch.ones(100)
    with MemoryMeter() as meter:
        kept = torch.ones(100)
        view = kept.view(10, 10)
        outside.add_(1)
        assert meter.current_bytes == 400
        del kept
        assert meter.current_bytes == 400, "a view keeps its storage"
        del view
        assert meter.current_bytes == 0
        weight = torch.randn(50, 50, requires_grad=True)
        loss = (torch.randn(20, 50) @ weight).tanh().sum()
        before = meter.current_bytes
        loss.backward()
        del loss
        assert meter.peak_bytes > before
        assert meter.current_bytes == 2 * weight.nbytes, "weight and its gradient are left"


def test_events_carry_memory_when_a_meter_is_given():
    problem = Problem(1, 2, 1, segments=3)
    program = add_messages(build("seq1f1b", problem))
    batches = batches_of(problem)
    with MemoryMeter() as meter:
        module = ToyStage(0, 1)
        executor = Executor(
            program, 0, {0: module}, LocalFabric(1).transport(0), boundary_of(problem), meter=meter
        )
        executor.run_step(batches, scale_of(batches))
        events = executor.run_step(batches, scale_of(batches)).events()
    held = [event.memory for event in events]
    assert all(event.peak >= event.memory for event in events)
    assert max(held) > held[-1], "forwards hold more than the end of the step"


def test_the_measured_timeline_is_the_program_on_one_clock():
    program = add_messages(build("seq1f1b", PROBLEM))
    _, _, events = run_local(program)
    store, fabric = process_store(), LocalFabric(2)

    def work(rank: int):
        return gather_timeline(program, events[rank], store, rank, key="0")

    timeline, nothing = run_ranks(fabric, work)
    assert nothing is None
    assert timeline.source == "measured"
    assert min(row[0].start_s for row in timeline.rows) == 0
    for row, measured in zip(program.schedule().rows, timeline.rows, strict=True):
        assert [event.op for event in measured] == list(row)
    for row, waits in zip(timeline.rows, timeline.waits_s, strict=True):
        gaps = [b.start_s - a.end_s for a, b in pairwise(row)]
        assert all(0 <= wait <= gap + 1e-12 for wait, gap in zip(waits[1:], gaps, strict=True))


def test_the_share_of_a_gap_that_a_message_was_in_flight():
    problem = Problem(2, 1)
    program = add_messages(build("1f1b", problem))
    f0, f1, b1, b0 = (Op.parse(text) for text in ("0F0", "1F0", "1B0", "0B0"))
    rows = [
        [Event(f0, 10.0, 11.0), Event(b0, 15.0, 16.0)],
        [Event(f1, 11.5, 12.5), Event(b1, 12.5, 14.0)],
    ]
    timeline = timeline_of(program, rows)
    assert timeline.waits_s == ((0.0, 1.0), (0.5, 0.0))
    assert timeline.makespan_s == 6.0


@pytest.mark.parametrize("machines", [("a", "a"), ("a", "b"), ("", "")])
def test_clocks_of_one_process_agree_however_they_are_compared(machines):
    store, fabric = process_store(), LocalFabric(2)

    def work(rank: int) -> float:
        return clock_offset_s(store, rank, 2, machine=machines[rank])

    first, second = run_ranks(fabric, work)
    assert first == 0
    assert second == 0 if machines == ("a", "a") else abs(second) < 0.1


def test_profiler_ranges_only_when_asked():
    problem = Problem(1, 1, 1, segments=2)
    program = add_messages(build("seq1f1b", problem))
    batches = batches_of(problem)

    def names(ranges: bool) -> list[str]:
        executor = Executor(
            program, 0, {0: ToyStage(0, 1)}, LocalFabric(1).transport(0), boundary_of(problem),
            ranges=ranges,
        )  # fmt: skip
        with torch.profiler.profile() as profile:
            executor.run_step(batches, scale_of(batches))
        return [e.name for e in profile.events() if e.name.startswith("longpipe:")]

    assert names(ranges=False) == []
    assert names(ranges=True) == [f"longpipe:{op}" for op in program.rows[0]]
