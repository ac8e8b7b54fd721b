"""The recompute pass over every schedule: where its R's stand, and what it costs and saves."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from longpipe.cli.main import app
from longpipe.cost import (
    Activations,
    AnalyticCosts,
    DecoderShape,
    Device,
    Link,
    Load,
    Measured,
    MeasuredCosts,
    Slot,
    StageShape,
    UniformCosts,
    coefficients,
    op_flops,
)
from longpipe.errors import PlanError, ProblemError, ScheduleError
from longpipe.ir import (
    INPUT_GRAD,
    Kind,
    Memory,
    Op,
    Problem,
    Schedule,
    from_text,
    loop,
    segments_from_lengths,
    to_text,
    to_torch_csv,
    v,
)
from longpipe.passes import add_messages, recompute, stages_named
from longpipe.plan.plan import Plan
from longpipe.schedules import build, entry
from longpipe.simulate import measure, simulate
from longpipe.validate import validate

SHAPE = DecoderShape(64, 4, 8, 2, 8, 160, 1000)


SIZES = [(1, 2, 1), (2, 3, 2), (4, 4, 4), (4, 2, 1)]  # ranks, micro-batches, segments


def buildable(name: str) -> Iterator[Schedule]:
    """On a few sizes: orders that search are slow on the whole grid."""
    about = entry(name)
    for ranks, microbatches, segments in SIZES:
        chunks = 2 if about.chunks is None else about.chunks
        problem = Problem(ranks, microbatches, chunks, segments if about.segments else 1)
        try:
            yield build(name, problem)
        except ProblemError:
            continue


def test_every_schedule_stays_valid_and_keeps_its_order(schedule_name: str) -> None:
    for schedule in buildable(schedule_name):
        again = recompute(schedule)
        validate(again)
        validate(add_messages(again))
        for row, longer in zip(schedule.rows, again.rows, strict=True):
            assert tuple(op for op in longer if op.kind is not Kind.R) == row
            for op, after in zip(longer, (*longer[1:], None), strict=True):
                if op.kind is Kind.R and (after, op) not in schedule.pairs:
                    reader = after
                    if reader is not None and reader.kind is Kind.F:  # a pair that may run fused
                        reader = next(b for a, b in schedule.pairs if a == reader)
                    assert reader is not None
                    assert reader.kind in INPUT_GRAD
                    assert reader._replace(kind=Kind.R) == op
        redone = [op for _, _, op in again if op.kind is Kind.R]
        assert len(redone) == len(set(redone)) == sum(op.kind is Kind.F for _, _, op in schedule)


def test_a_pair_that_may_run_fused_stays_together() -> None:
    row = tuple(map(Op.parse, ("0F0", "0F1", "0B0", "0B1")))
    paired = Schedule("", Problem(1, 2), loop(1), (row,), frozenset({(row[1], row[2])}))
    again = recompute(paired)
    assert " ".join(map(str, again.rows[0])) == "0F0 0R0 0F1 0B0 0R1 0B1"
    assert again.pairs == paired.pairs


def test_some_stages_then_others() -> None:
    schedule = build("interleaved", Problem(2, 2, chunks=2))
    once = recompute(schedule, {0, 3})
    assert {op.stage for _, _, op in once if op.kind is Kind.R} == {0, 3}
    assert recompute(once, {0, 3}) == once
    assert recompute(once) == recompute(schedule)
    with pytest.raises(ProblemError, match=re.escape("stages 0 to 3, leave out [4]")):
        recompute(schedule, {4})


def test_names_of_stages() -> None:
    assert stages_named("all", loop(2)) == (0, 1)
    assert stages_named("chunk:0", loop(2, 2)) == (0, 1)
    assert stages_named("chunk:1", v(2)) == (2, 3)
    assert stages_named("3,0", loop(4)) == (0, 3)
    for text in ("chunk:2", "first", "0,,1", "-1", ""):
        with pytest.raises(ProblemError, match=r"use (all, )?chunk:0"):
            stages_named(text, loop(2, 2))


@pytest.mark.parametrize("name", ["1f1b", "seq1f1b", "gpipe", "zb-h1"])
def test_memory_of_one_unit_and_the_saved_inputs(name: str) -> None:
    """Only the unit at work is whole; each of those in flight leaves its input."""
    problem = Problem(4, 8, segments=4 if name == "seq1f1b" else 1)
    schedule = build(name, problem)
    costs = UniformCosts(problem, saved="0.1")
    before = measure(simulate(schedule, costs)).peak_memory
    found = measure(simulate(recompute(schedule), costs)).peak_memory
    assert before is not None
    assert found is not None
    if name != "zb-h1":  # where W waits, whole units wait with it
        unit = 1 / problem.segments_max
        want = [peak * 0.1 + unit * 0.9 for peak in before]
        assert found == pytest.approx(want)
    assert found[0] < before[0]


def test_text_keeps_an_r_and_validate_knows_its_place() -> None:
    schedule = recompute(build("seq1f1b", Problem(2, 2, segments=2)), {1})
    assert from_text(to_text(schedule)) == schedule
    with pytest.raises(ScheduleError, match=r"torch has no op like 1R0\.1"):
        to_torch_csv(schedule)
    late = "# ir 1 | late ranks=1 microbatches=1\nr0: 0F0 0B0 0R0"
    for level in ("schedule", "program"):
        with pytest.raises(ScheduleError, match="0R0 comes after 0B0"):
            validate(from_text(late.replace("microbatches=1", f"microbatches=1 level={level}")))
    early = "# ir 1 | early ranks=1 microbatches=1\nr0: 0R0 0F0 0B0"
    with pytest.raises(ScheduleError, match="0R0 comes before 0F0"):
        validate(from_text(early))


@pytest.mark.parametrize("keeps", [False, True], ids=["full", "selective"])
def test_what_recompute_costs_and_saves(keeps: bool) -> None:
    """R runs the layers' forward again, without attention if its outputs are kept, never the loss;
    F keeps its input, and keys and values while a later segment reads them."""
    segments = segments_from_lengths((24, 40))
    stage = StageShape(2, last=True)
    again = op_flops(Kind.R, SHAPE, stage, segments[0], keeps_attention=keeps)
    layers = StageShape(2)
    once = op_flops(Kind.F, SHAPE, layers, segments[0])
    attention = coefficients(SHAPE, layers, (Kind.F,))[1] * 24 * 25 // 2
    assert again == once - keeps * attention
    memory = Activations(SHAPE, stage, segments, keeps_attention=keeps)
    outputs = keeps * 2 * (SHAPE.query_size * 2 + SHAPE.heads * 4)
    light = [memory.light(segment).holds for segment in segments]
    assert light[0] == 24 * (SHAPE.hidden * 2 + outputs) + 2 * memory.layer_kv(24)
    assert light[1] == 40 * (SHAPE.hidden * 2 + outputs)
    for segment in segments:
        whole = memory.light(segment).holds + memory.holds(Kind.R, segment)
        assert whole == memory.holds(Kind.F, segment)
        assert 0 < memory.scratch(Kind.R, segment) < memory.scratch(Kind.F, segment)


def test_a_load_says_what_a_light_forward_keeps() -> None:
    problem = Problem(1, 1)
    op = Op(Kind.F, 0, 0)
    found = []
    for keeps in (False, True):
        load = Load((4,), ((64,),), keeps_attention=keeps)
        costs = AnalyticCosts(problem, SHAPE, load, Device(1e9), Link(0.0, 1e9))
        found.append((costs.light(op).holds, costs.ticks(op._replace(kind=Kind.R))))
    assert found[0][0] < found[1][0]
    assert found[0][1] > found[1][1]


def test_measured_costs_of_a_forward_in_two_parts() -> None:
    """What a whole F holds follows from the light one and its R; the file keeps all."""
    slot = Slot(Kind.F, 0, 0)
    ops = {
        slot._replace(light=True): Measured(1.0, 10, 30),
        slot._replace(kind=Kind.R): Measured(0.9, 40, 55),
        slot._replace(kind=Kind.B): Measured(2.0, -50, 20),
    }
    costs = MeasuredCosts(ops, (8,), {})
    forward = Op(Kind.F, 0, 0)
    assert costs.light(forward) == Memory(10, 30)
    assert costs.ticks(forward) == 1.0
    assert (costs.holds(forward), costs.scratch(forward)) == (50, 65)
    assert MeasuredCosts.from_json(costs.to_json()) == costs
    schedule = recompute(build("1f1b", Problem(1, 2)))
    found = measure(simulate(schedule, costs))
    assert found.peak_memory == (70.0,)
    assert found.makespan_s == pytest.approx(2 * 3.9)
    with pytest.raises(PlanError, match="measure with the same recompute"):
        MeasuredCosts({slot: Measured(1.0, 50, 60)}, (8,), {}).light(forward)


def test_a_plan_says_which_stages_and_how_much() -> None:
    plan = Plan(
        "zb-h1", Problem(2, 2), (1, 1), ((8,), (8,)), recompute="selective", recompute_stages=(1,)
    )
    assert Plan.from_json(plan.to_json()) == plan
    rows = plan.program().rows
    assert {op.stage for row in rows for op in row if op.kind is Kind.R} == {1}
    written = replace(plan, order=to_text(add_messages(build("zb-h1", Problem(2, 2)))))
    assert written.program().schedule().rows == plan.program().schedule().rows
    for wrong in ({"recompute": "some"}, {"recompute": "none"}):
        with pytest.raises(PlanError, match="recompute is one of none, full, selective"):
            replace(plan, **wrong)
    with pytest.raises(ProblemError, match="leave out"):
        replace(plan, recompute_stages=(2,)).program()


def test_the_command_line_takes_the_stages() -> None:
    size = ("--ranks", "4", "--microbatches", "8")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    found = json.loads(run("simulate", "chronos", *size, "--recompute", "chunk:0", "--json"))
    assert found["peak_activations"] == [1.5, 1.0, 1.0, 0.5]
    text = run("export", "1f1b", *size, "--format", "text", "--recompute", "0,3")
    assert {op.stage for _, _, op in from_text(text) if op.kind is Kind.R} == {0, 3}
    cheap = run("simulate", "1f1b", *size, "--recompute", "all", "--costs", "F=1,R=0.5")
    assert "makespan 37 " in cheap
    wrong = CliRunner().invoke(app, ["show", "1f1b", *size, "--recompute", "first"])
    assert wrong.exit_code == 1
    assert "use all, chunk:0" in str(wrong.exception) + wrong.output
