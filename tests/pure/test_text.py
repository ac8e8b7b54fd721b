"""The file form and torch's CSV: printed and read back equal, and refused with line and column."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import (
    Kind,
    Op,
    Placement,
    Problem,
    Program,
    Schedule,
    bidirectional,
    from_text,
    from_torch_csv,
    loop,
    read,
    to_text,
    to_torch_csv,
    v,
)
from longpipe.passes import add_messages
from longpipe.schedules import build
from longpipe.validate import validate

ops = st.builds(
    Op,
    kind=st.sampled_from(Kind),
    stage=st.integers(0, 10**6),
    mb=st.integers(0, 10**6),
    seg=st.integers(0, 10**6),
)


@given(ops)
def test_op_round_trip(op: Op) -> None:
    assert Op.parse(str(op)) == op


@given(st.text("0123FBIWSENDRCV_. ", max_size=12))
def test_op_text_is_read_only_if_it_prints_back(text: str) -> None:
    try:
        op = Op.parse(text)
    except ScheduleError:
        return
    assert str(op) == text


@pytest.mark.parametrize("text", ["", "0F", "F0", "0F0.0", "0F00", "00F0", "0X0", "0F0x", " 0F0"])
def test_odd_op_text_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="such as 2F3"):
        Op.parse(text)


@st.composite
def anything(draw: st.DrawFn) -> Schedule | Program:
    """Any value that the file form must carry, right or wrong."""
    ranks, chunks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    problem = Problem(ranks, len(counts), chunks, draw(st.sampled_from([1, 2, counts])))
    rank = st.integers(0, ranks - 1)
    stages = st.tuples(*[rank] * problem.stages)
    table = st.lists(stages, min_size=1, max_size=3).map(lambda rows: Placement(ranks, tuple(rows)))
    both = bidirectional(ranks, len(counts))
    placement = draw(st.sampled_from([loop(ranks, chunks), v(ranks), both]) | table)
    rows = st.tuples(*[st.lists(ops, max_size=4).map(tuple)] * ranks)
    name = draw(st.sampled_from(["", "1f1b", "my-schedule_2"]))
    level = draw(st.sampled_from([Schedule, Program]))
    drawn = draw(rows)
    neighbours = [pair for row in drawn for pair in pairwise(row)]
    pair = st.tuples(ops, ops) | (st.sampled_from(neighbours) if neighbours else st.nothing())
    value = level(name, problem, placement, drawn, draw(st.frozensets(pair, max_size=3)))
    has_messages = any(len(op.kind.value) > 1 for row in value.rows for op in row)
    return Program(name, problem, placement, drawn, value.pairs) if has_messages else value


@given(anything())
def test_file_round_trip(value: Schedule | Program) -> None:
    text = to_text(value)
    assert from_text(text) == value
    assert read(text) == value


def test_every_schedule_round_trips(schedules: tuple[Schedule, ...]) -> None:
    for schedule in schedules[::7]:
        assert from_text(to_text(schedule)) == schedule
        program = add_messages(schedule)
        assert from_text(to_text(program)) == program


def test_hand_written_file() -> None:
    text = """
    # A note before the header.
    # ir 1 | mine ranks=2 microbatches=1 segments=2 | makespan 8

    r1 .   1F0 1F0.1 1B0.1 -   1B0 -     # rows in any order, cells of pictures, comments
    r0: 0F0 0F0.1 .  .  . 0B0.1 - 0B0 -
    """
    schedule = read(text)
    assert schedule.name == "mine"
    assert [str(op) for op in schedule.rows[0]] == ["0F0", "0F0.1", "0B0.1", "0B0"]
    validate(schedule)


HEADER = "# ir 1 | x ranks=2 microbatches=2\n"
TEXT_FAULTS = {
    "": "there is no header; begin with a line such as # ir 1 |",
    "r0: 0F0\n": "line 1, column 1: rows come after the header",
    "# ir 2 | x ranks=2 microbatches=2": "line 1, column 6: this is ir 2",
    "# ir 1 | x microbatches=2": "line 1, column 1: the header has no ranks",
    "# ir 1 | x ranks=two microbatches=2": "ranks must be a whole number of at least 1, got 'two'",
    "# ir 1 | x ranks=2 microbatches=0": "microbatches must be a whole number",
    "# ir 1 | x ranks=2 microbatch=2": "column 20: unknown field 'microbatch': did you mean microb",
    "# ir 1 | x colour=2": "column 12: unknown field 'colour': fields are ranks",
    "# ir 1 | x y ranks=2": "column 12: 'y' is no field",
    "# ir 1 | ranks=2 microbatches=2 segments=[2, 3]": "column 33: cannot read segments=[2,",
    "# ir 1 | ranks=2 microbatches=2 segments=[2,3,4]": "segments gives 3 counts for 2",
    "# ir 1 | ranks=2 microbatches=2 placement=w": "is not loop, v, bidirectional, or a list",
    "# ir 1 | ranks=2 microbatches=2 placement=[0,2]": "stage 1 is placed on rank 2 of 2",
    "# ir 1 | ranks=2 microbatches=2 level=x": "level=x is not schedule or program",
    HEADER + "r0: 0F0 0X1\n": "line 2, column 9: cannot read '0X1' as an op",
    HEADER + "r0: 0F0\n\nr0: 0F1": "line 4, column 1: r0 has a second row",
    HEADER + "r0: 0F0\n": "line 1, column 1: ranks=2, but no line begins with r1:",
    HEADER + "r2: 0F0\n": "line 2, column 1: the header says ranks=2, got r2",
    HEADER + "  0F0 0F1\n": "line 2, column 3: a row begins with its rank, as r0: does, not '0F0'",
}


@pytest.mark.parametrize("text", TEXT_FAULTS)
def test_unreadable_file(text: str) -> None:
    with pytest.raises(ScheduleError) as error:
        from_text(text)
    assert TEXT_FAULTS[text] in str(error.value)


def test_a_name_that_would_not_read_back_is_refused() -> None:
    with pytest.raises(ScheduleError, match="got 'two words'"):
        to_text(Schedule("two words", Problem(1, 1), loop(1), ((),)))


def test_torch_csv_numbers_units_by_segment() -> None:
    schedule = build("seq1f1b", Problem(ranks=2, microbatches=1, segments=2))
    assert to_torch_csv(schedule) == "0F0,0F1,0B1,0B0\n1F0,1F1,1B1,1B0\n"


def test_every_schedule_comes_back_from_torch_csv(schedules: tuple[Schedule, ...]) -> None:
    for schedule in schedules[::5]:
        if schedule.placement.by_mb[1:]:
            continue  # torch's CSV has each stage on one rank
        problem = schedule.problem
        back = from_torch_csv(to_torch_csv(schedule), segments=problem.segments_max)
        assert (back.problem, back.rows) == (problem, schedule.rows)
        assert back.pairs == schedule.pairs
        assert back.placement == schedule.placement


def test_torch_csv_with_messages_and_overlap() -> None:
    text = (
        "0UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,,0B1,0REDUCE_GRAD,0RESHARD\r\n"
        "1RECV_F0,1F0,,1RECV_F1,(1F1;1B0)OVERLAP_F_B,1SEND_B0,1I1,1SEND_B1,1W1\r\n"
    )
    schedule = read(text)
    assert to_text(schedule) == (
        "# ir 1 | torch-csv ranks=2 microbatches=2\n"
        "r0: 0UNSHARD0 0F0 0F1 0B0 0B1 0REDUCE_GRAD0 0RESHARD0\n"
        "r1: 1F0 (1F1;1B0)OVERLAP_F_B 1I1 1W1\n"
    )
    validate(add_messages(schedule))


def test_torch_csv_infers_the_placement() -> None:
    schedule = from_torch_csv("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n")
    assert schedule.placement == v(2)
    assert schedule.problem == Problem(ranks=2, microbatches=1, chunks=2)


CSV_FAULTS = {
    "": "no compute action",
    "0UNSHARD": "no compute action",
    "0F0,0F0xyz": "line 1, cell 2: cannot read '0F0xyz' as an action",
    "0F": "line 1, cell 1: cannot read '0F'",
    "0F0, 0B0": "line 1, cell 2: cannot read ' 0B0'",
    "0F00": "cannot read '0F00'",
    "0F0,(1F1)OVERLAP_F_B": "cannot read '(1F1)OVERLAP_F_B'",
    "0F0,(1F1;1SEND_F0)OVERLAP_F_B": "cannot read '1SEND_F0'",
    "0UNSHARD0": "cannot read '0UNSHARD0'",
    "0F0\n0B0": "line 2: 0B0 runs on rank 1, but stage 0 is on rank 0 already",
    "0F0\n2F0": "no rank runs stage 1, though stage 2 is there",
    "0F0,1F0,2F0\n3F0,4F0": "5 stages on 2 ranks",
}


@pytest.mark.parametrize("text", CSV_FAULTS)
def test_unreadable_csv(text: str) -> None:
    with pytest.raises(ScheduleError) as error:
        from_torch_csv(text)
    assert CSV_FAULTS[text] in str(error.value)


def test_wrong_number_of_segments() -> None:
    with pytest.raises(ScheduleError, match=r"3 microbatches do not divide .* of 2 segments"):
        from_torch_csv("0F0,0F1,0F2,0B0,0B1,0B2", segments=2)
    with pytest.raises(ProblemError, match="got 0"):
        from_torch_csv("0F0,0B0", segments=0)


def test_an_absurd_header_costs_nothing() -> None:
    for sizes in (
        "ranks=1 microbatches=1 chunks=9000000000",
        "ranks=9000000000 microbatches=1 placement=v",
        "ranks=1 microbatches=9000000000 placement=bidirectional",
    ):
        with pytest.raises(ScheduleError, match=r"line 1, .* 9,000,000,000 .* at most"):
            from_text(f"# ir 1 | {sizes}\nr0: 0F0 0B0\n")


def test_what_torch_cannot_express_is_refused() -> None:
    uneven = build("seq1f1b", Problem(2, 2, segments=(2, 3)))
    with pytest.raises(ScheduleError, match=r"segments=\(2, 3\) differ by micro-batch"):
        to_torch_csv(uneven)
    two_ways = "# ir 1 | ranks=2 microbatches=2 placement=[[0,1],[1,0]]\nr0: 0F0 1F1 1B1 0B0\nr1:"
    with pytest.raises(ScheduleError, match="differs by micro-batch"):
        to_torch_csv(from_text(two_ways))
    backwards = from_text("# ir 1 | ranks=1 microbatches=2\nr0: 0F1 0F0 0B0 0B1")
    validate(backwards)
    with pytest.raises(ScheduleError, match=r"rank 0, op 1: 0F0 on the last stage .* losses"):
        to_torch_csv(backwards)
