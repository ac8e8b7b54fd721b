"""The recompute pass over every schedule: where its R's stand, and what it costs and saves."""

import re

import pytest

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import INPUT_GRAD, Kind, Op, Problem, Schedule, from_text, loop, to_text, v
from longpipe.passes import add_messages, recompute, stages_named
from longpipe.schedules import build
from longpipe.simulate import measure, simulate
from longpipe.validate import validate


def test_every_schedule_stays_valid_and_keeps_its_order(schedules: tuple[Schedule, ...]) -> None:
    for schedule in schedules:
        if schedule.ops > 2000:
            continue
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
    with pytest.raises(ProblemError, match=re.escape("stages 0 to 3, got [4]")):
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
    late = "# ir 1 | late ranks=1 microbatches=1\nr0: 0F0 0B0 0R0"
    for level in ("schedule", "program"):
        with pytest.raises(ScheduleError, match="0R0 comes after 0B0"):
            validate(from_text(late.replace("microbatches=1", f"microbatches=1 level={level}")))
    early = "# ir 1 | early ranks=1 microbatches=1\nr0: 0R0 0F0 0B0"
    with pytest.raises(ScheduleError, match="0R0 comes before 0F0"):
        validate(from_text(early))
