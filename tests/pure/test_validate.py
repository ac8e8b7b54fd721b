"""Faults put into right schedules: each is refused, with its place and the chain."""

from dataclasses import replace

import pytest
from schedule_faults import SENT, SEQ, SPLIT, V, delete, edited, insert, put, swap

from longpipe.errors import ScheduleError
from longpipe.ir import Kind, Op, Placement, Problem, Program, Schedule, from_text, loop
from longpipe.passes import add_messages
from longpipe.validate import validate, validate_memory

ORDER = {
    "backward over segments first in, first out": (
        edited(SEQ, 1, swap("1B0", "1B0.1")),
        ["rank 1, op 2: 1B0 comes before 1B0.1 (op 4)", "1B0 <- 1B0.1", "dKV", "segment 1", "Move"],
    ),
    "segment 1 forward before segment 0": (
        edited(SEQ, 0, swap("0F0", "0F0.1")),
        ["rank 0, op 0: 0F0.1 comes before 0F0 (op 1)", "0F0.1 <- 0F0", "KV", "segment 0"],
    ),
    "backward before forward on the last stage": (
        edited(SEQ, 1, swap("1B0.1", "1F0.1")),
        ["rank 1, op 1: 1B0.1 comes before 1F0.1 (op 2)", "1B0.1 <- 1F0.1", "own forward"],
    ),
    "W before its I": (
        edited(SPLIT, 1, swap("1W0.1", "1I0.1")),
        ["rank 1", "1W0.1 comes before 1I0.1", "1W0.1 <- 1I0.1", "weight gradient"],
    ),
    "second chunk before the first, on one rank": (
        edited(V, 1, swap("1F0", "2F0")),
        ["rank 1", "2F0 comes before 1F0", "2F0 <- 1F0", "output of stage 1"],
    ),
    "gradient of the stage after, on one rank": (
        edited(V, 1, swap("1I0", "2I0")),
        ["rank 1", "1I0 comes before 2I0", "1I0 <- 2I0", "gradient of its output", "stage 2"],
    ),
}


@pytest.mark.parametrize("fault", ORDER)
def test_wrong_order_on_one_rank(fault: str) -> None:
    """Also in a program, where the fault of the order is named and not its messages'."""
    wrong, says = ORDER[fault]
    with pytest.raises(ScheduleError) as error:
        validate(wrong)
    assert all(words in str(error.value) for words in says), str(error.value)
    chain = next(words for words in says if " <- " in words)
    with pytest.raises(ScheduleError, match=chain):
        validate(_as_program(wrong))


def _as_program(wrong: Schedule) -> Program:
    """The right program with its compute ops in the wrong order, messages where they were."""
    right = {schedule.name: schedule for schedule in (SEQ, SPLIT, V)}[wrong.name]
    rows = []
    for row, order in zip(add_messages(right).rows, wrong.rows, strict=True):
        compute = iter(order)
        rows.append(tuple(op if len(op.kind.value) > 1 else next(compute) for op in row))
    return Program(wrong.name, wrong.problem, wrong.placement, tuple(rows))


COMPLETE = {
    "duplicate F": (
        edited(SEQ, 0, insert("0B0", "0F0")),
        ["rank 0, op 5: 0F0 is there twice, first as op 0", "delete one"],
    ),
    "duplicate B": (
        edited(SEQ, 1, lambda row: (*row, Op(Kind.B, 1, 0))),
        ["rank 1, op 12: 1B0 is there twice, first as op 4"],
    ),
    "missing F": (edited(SEQ, 1, delete("1F2.1")), ["rank 1 has no 1F2.1", "add it"]),
    "missing B": (
        edited(SEQ, 1, delete("1B2")),
        ["rank 1 runs 1F2 (op 7) but neither 1B2 nor 1I2", "add 1B2, or 1I2 and 1W2"],
    ),
    "missing W": (
        edited(SPLIT, 0, delete("0W1")),
        ["rank 0", "0I1 has no 0W1", "lost", "add 0W1 after it"],
    ),
    "W without I": (
        edited(SPLIT, 0, delete("0I1")),
        ["rank 0 runs 0F1", "neither 0B1 nor 0I1", "add 0I1 before 0W1"],
    ),
    "W beside a full B": (
        edited(SEQ, 0, lambda row: (*row, Op(Kind.W, 0, 1))),
        ["rank 0, op 12: 0W1 would add the weight gradient again", "0B1 (op 9)"],
    ),
    "B and I both": (
        edited(SPLIT, 0, put("0W1", "0B1", "0W1")),
        ["rank 0", "0B1 repeats the backward that 0I1", "not both"],
    ),
    "a W moved to a unit with a full B": (
        edited(edited(SEQ, 0, put("0B1", "0I1")), 0, lambda row: (*row, Op(Kind.W, 0, 0))),
        ["rank 0, op 12: 0W0 would add the weight gradient again"],
    ),
    "op on the wrong rank": (
        edited(edited(SEQ, 0, delete("0F2.1")), 1, lambda row: (*row, Op(Kind.F, 0, 2, 1))),
        ["rank 1, op 12: 0F2.1 stands on the wrong rank", "lies on rank 0, move it there"],
    ),
    "micro-batch out of range, on every rank alike": (
        replace(SEQ, problem=Problem(ranks=2, microbatches=2, segments=2)),
        ["rank 0, op 6: 0F2 names micro-batch 2, but only 0 to 1 exist"],
    ),
    "segment out of range": (
        replace(SEQ, problem=Problem(ranks=2, microbatches=3, segments=(2, 1, 2))),
        ["rank 0, op 4: 0F1.1 names segment 1, but only 0 to 0 exist"],
    ),
    "stage out of range": (
        edited(SEQ, 0, put("0F1", "2F1")),
        ["rank 0, op 2: 2F1 names stage 2, but only 0 to 1 exist"],
    ),
    "counts too large, absurdly": (
        replace(SEQ, problem=Problem(ranks=2, microbatches=10**9, segments=2)),
        ["rank 0 has no 0F3: add it"],
    ),
}


@pytest.mark.parametrize("fault", COMPLETE)
def test_incomplete_or_out_of_place(fault: str) -> None:
    wrong, says = COMPLETE[fault]
    with pytest.raises(ScheduleError) as error:
        validate(wrong)
    assert all(words in str(error.value) for words in says), str(error.value)


SPEC = {
    "message in a schedule": (
        edited(SEQ, 0, insert("0F0.1", "0SEND_F0")),
        ["rank 0, op 1: 0SEND_F0 cannot stand in a Schedule", "add_messages"],
    ),
    "a row too few": (replace(SEQ, rows=SEQ.rows[:1]), ["1 rows for 2 ranks"]),
    "placement of other stages": (
        replace(SEQ, placement=loop(2, chunks=2)),
        ["4 stages on 2 ranks", "2 stages", "stages 0 to 1"],
    ),
    "placement by other micro-batches": (
        replace(SEQ, placement=Placement(2, ((0, 1), (1, 0)))),
        ["2 rows for 3 micro-batches"],
    ),
}


@pytest.mark.parametrize("fault", SPEC)
def test_wrong_level_or_placement(fault: str) -> None:
    wrong, says = SPEC[fault]
    with pytest.raises(ScheduleError) as error:
        validate(wrong)
    assert all(words in str(error.value) for words in says), str(error.value)


def test_deadlock_over_ranks_names_the_cycle() -> None:
    deadlock = from_text(
        "# ir 1 | ranks=2 microbatches=2\nr0: 0F0 0B0 0F1 0B1\nr1: 1F0 1F1 1B0 1B1"
    )
    with pytest.raises(ScheduleError) as error:
        validate(deadlock)
    assert "rank 0, op 1 (0B0) waits for 1B0, op 2 of rank 1" in str(error.value)
    assert "rank 1, op 1 (1F1) waits for 0F1, op 2 of rank 0" in str(error.value)
    assert "Move" in str(error.value)


def test_bidirectional_placement() -> None:
    """Stage 0 of micro-batch 0 is on rank 0, of micro-batch 1 on rank 1: two pipes, one value."""
    text = """# ir 1 | two-ways ranks=2 microbatches=2 placement=[[0,1],[1,0]]
    r0: 0F0 1F1 1B1 0B0
    r1: 0F1 1F0 1B0 0B1
    """
    schedule = from_text(text)
    validate(schedule)
    validate(add_messages(schedule))
    with pytest.raises(ScheduleError, match="1F1 stands on the wrong rank"):
        validate(replace(schedule, placement=loop(2)))


class Cells:
    """One cell for each forward, freed by the backward; a backward needs two more meanwhile."""

    tick_s = cell_bytes = 1.0

    def ticks(self, op: Op) -> float:
        return 1

    def delay(self, op: Op, source: int, destination: int) -> float:
        return 0

    def holds(self, op: Op) -> float:
        return {Kind.F: 1, Kind.B: -1}[op.kind]

    def scratch(self, op: Op) -> float:
        return {Kind.F: 1, Kind.B: 2}[op.kind]


def test_memory_bound() -> None:
    validate_memory(SENT, Cells(), limit=5)
    with pytest.raises(ScheduleError, match=r"rank 0, op 3: 0B0.1 .* from 3 to 5 cells, over .* 4"):
        validate_memory(SEQ, Cells(), limit=4)
