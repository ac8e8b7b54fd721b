"""Faults put into right schedules and programs: each is refused, with its place and the chain."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import Kind, Op, Placement, Problem, Program, Schedule, from_text, loop
from longpipe.passes import add_messages
from longpipe.schedules import build
from longpipe.validate import validate, validate_memory

Row = tuple[Op, ...]
Edit = Callable[[Row], Row]

SEQ = build("seq1f1b", Problem(ranks=2, microbatches=3, segments=2))
SPLIT = build("seq-zb-h1", Problem(ranks=2, microbatches=2, segments=2))
V = build("zb-v", Problem(ranks=2, microbatches=4, chunks=2))
SENT = add_messages(SEQ)


def edited(what, rank: int, edit: Edit):
    """`what` with one rank's row rewritten."""
    rows = list(what.rows)
    rows[rank] = edit(rows[rank])
    return replace(what, rows=tuple(rows))


def swap(a: str, b: str) -> Edit:
    names = {Op.parse(a): Op.parse(b), Op.parse(b): Op.parse(a)}
    return lambda row: tuple(names.get(op, op) for op in row)


def delete(*texts: str) -> Edit:
    gone = {Op.parse(text) for text in texts}
    return lambda row: tuple(op for op in row if op not in gone)


def insert(before: str, *texts: str) -> Edit:
    new = tuple(map(Op.parse, texts))

    def edit(row: Row) -> Row:
        at = row.index(Op.parse(before))
        return (*row[:at], *new, *row[at:])

    return edit


def put(old: str, *texts: str) -> Edit:
    new = tuple(map(Op.parse, texts))
    return lambda row: tuple(o for op in row for o in (new if op == Op.parse(old) else (op,)))


def after_all(text: str) -> Edit:
    return lambda row: (*delete(text)(row), Op.parse(text))


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


MESSAGES = {
    "missing SEND": (
        edited(SENT, 0, delete("0SEND_F1")),
        ["rank 0, op", "the result of 0F1 goes to rank 1", "rank 0 has no 0SEND_F1", "right after"],
    ),
    "missing RECV": (
        edited(SENT, 1, delete("1RECV_F1")),
        ["rank 0, op", "the result of 0F1", "rank 1 has no 1RECV_F1", "before its reader"],
    ),
    "SEND twice": (
        edited(SENT, 0, put("0SEND_F1", "0SEND_F1", "0SEND_F1")),
        ["rank 0, op", "0SEND_F1 is there twice"],
    ),
    "an extra RECV": (
        edited(SENT, 0, insert("0F0", "0RECV_F0")),
        ["rank 0, op 0: 0RECV_F0 has no other end", "delete"],
    ),
    "an extra SEND at the end of the model": (
        edited(SENT, 1, lambda row: (*row, Op(Kind.SEND_F, 1, 0))),
        ["rank 1, op", "1SEND_F0 has no other end"],
    ),
    "message between stages of one rank": (
        edited(add_messages(V), 1, insert("2F0", "1SEND_F0", "2RECV_F0")),
        ["rank 1, op", "1SEND_F0 is superfluous", "stages 1 and 2 both lie on rank 1", "delete"],
    ),
    "message on the wrong rank": (
        edited(edited(SENT, 0, delete("0SEND_F1")), 1, lambda row: (*row, Op(Kind.SEND_F, 0, 1))),
        ["rank 1, op", "0SEND_F1 stands on the wrong rank", "rank 0"],
    ),
    "SEND before its producer": (
        edited(SENT, 0, swap("0F1", "0SEND_F1")),
        ["rank 0, op 4: 0SEND_F1 comes before 0F1 (op 5)", "move it after"],
    ),
    "RECV after its reader": (
        edited(SENT, 1, after_all("1RECV_F1")),
        ["rank 1, op", "1RECV_F1 comes after 1F1", "which reads it"],
    ),
    "RECVs in another order than the SENDs": (
        from_text(
            "# ir 1 | ranks=2 microbatches=2\n"
            "r0: 0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n"
            "r1: 1RECV_F1 1RECV_F0 1F0 1F1 1B0 1SEND_B0 1B1 1SEND_B1"
        ),
        [
            "rank 1, op 0: 1RECV_F1 is RECV 0 of the channel from rank 0 (SEND_F)",
            "SEND 0 there is 0SEND_F0 (op 1)",
            "wrong tensor",
            "put 1RECV_F0 (op 1) in its place",
        ],
    ),
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_wrong_messages(fault: str) -> None:
    wrong, says = MESSAGES[fault]
    with pytest.raises(ScheduleError) as error:
        validate(wrong)
    assert all(words in str(error.value) for words in says), str(error.value)


RENDEZVOUS = """# ir 1 | both-send-first ranks=2 microbatches=2
r0: 0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1
r1: 1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1
"""


def test_deadlock_under_rendezvous_names_the_cycle() -> None:
    """What hangs where SEND blocks: rank 0 sends F1 while rank 1 sends B0."""
    program = from_text(RENDEZVOUS)
    with pytest.raises(ScheduleError) as error:
        validate(program)
    text = str(error.value)
    assert "where a SEND blocks until its RECV is posted" in text
    assert "rank 0, op 3 (0SEND_F1) waits for 1RECV_F1, op 4 of rank 1" in text
    assert "rank 1, op 3 (1SEND_B0) waits for 0RECV_B0, op 4 of rank 0" in text
    validate(program, buffers=1)  # one message under way is enough to go on


@pytest.mark.parametrize("buffers", [0, 1, 2, 3])
def test_deadlock_under_bounded_buffers(buffers: int) -> None:
    """Rank 0 sends F1, F2, F3 ahead, while rank 1 takes F(i+1) only after it sent B(i)."""
    ahead = " ".join(f"0F{mb} 0SEND_F{mb}" for mb in range(4))
    behind = " ".join(f"0RECV_B{mb} 0B{mb}" for mb in range(4))
    last = " ".join(f"1RECV_F{mb} 1F{mb} 1B{mb} 1SEND_B{mb}" for mb in range(4))
    program = from_text(f"# ir 1 | ranks=2 microbatches=4\nr0: {ahead} {behind}\nr1: {last}")
    if buffers >= 2:
        validate(program, buffers=buffers)
        return
    with pytest.raises(
        ScheduleError, match=r"where a SEND blocks .* each waits for the next: "
    ) as error:
        validate(program, buffers=buffers)
    if buffers == 1:
        assert "while 1 earlier messages of its channel" in str(error.value)
        assert "rank 0, op 7 (0SEND_F3) waits for 1RECV_F2, op 8 of rank 1" in str(error.value)


def test_negative_buffers_are_refused() -> None:
    with pytest.raises(ProblemError, match="at least 0, got -1"):
        validate(SENT, buffers=-1)


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
