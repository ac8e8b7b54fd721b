"""Pairs of ops that may be fused: validated as a gang, timed, drawn, and kept in files."""

import json

import pytest

from longpipe import (
    Problem,
    Schedule,
    ScheduleError,
    Timeline,
    UniformCosts,
    build,
    simulate,
    validate,
)
from longpipe.ir import Op, Program, from_text, read, to_text, to_torch_csv
from longpipe.passes import add_messages, bound_weights
from longpipe.view import (
    chrome_trace,
    picture,
    timelines_from_json,
    timelines_to_json,
)

HEAD = "# ir 1 | mine ranks=2 microbatches=2\n"


def written(first: str, second: str = "1F0 1B0 1F1 1B1") -> Schedule:
    """Two ranks, two micro-batches, with pairs in the rows."""
    schedule = from_text(f"{HEAD}r0: {first}\nr1: {second}\n")
    assert isinstance(schedule, Schedule)
    return schedule


def test_a_pair_is_one_word() -> None:
    """As torch writes it; as pictures do; a picture's op may go on before the pair's second."""
    forms = (
        "0F0 (0F1;0B0)OVERLAP_F_B 0B1",
        "0F0 0F1&0B0 0B1",
        "0F0 0F1 - &0B0 - 0B1",
        "0F0 0F1 0B0 0B1\npairs: 0F1&0B0",
    )
    schedules = [written(form) for form in forms]
    assert all(schedule == schedules[0] for schedule in schedules)
    assert schedules[0].pairs == {(Op.parse("0F1"), Op.parse("0B0"))}
    assert forms[0] in to_text(schedules[0])
    validate(schedules[0])


def test_a_program_names_its_pairs_below() -> None:
    """Messages stand between the two, so that they run well apart, too."""
    program = add_messages(written(first="0F0 0F1&0B0 0B1"))
    text = to_text(program)
    assert "0F1 0SEND_F1 0RECV_B0 0B0" in text
    assert text.endswith("\npairs: 0F1&0B0\n")
    assert read(text) == program
    validate(program)


@pytest.mark.parametrize(
    ("row", "column"), [("0F0 0F1&0X0", 13), ("0F0 (0F1;0)OVERLAP_F_B", 14), ("&0B0", 6)]
)
def test_unreadable_pairs_are_named(row: str, column: int) -> None:
    """Line and column of the op at fault."""
    what = f"line 2, column {column - 1}" if row[0] == "&" else f"line 2, column {column}"
    with pytest.raises(ScheduleError, match=rf"{what}: cannot read"):
        written(row)


FAULTS = {
    "0F0 0F1&0B0 0B1\npairs: 0F0&0B0": "0F0 and 0B0 is of one unit, and 0B0 needs 0F0",
    "0F0 0F1 0B0 0B1\npairs: 0F0&0B1": "0F0 and 0B1 are no neighbours, 0B1 is op 3: move it",
    "0F0 0F1 0B0 0B1\npairs: 0F1&1B0": "0F1 runs on rank 0, but 1B0 on rank 1: pair two ops of one",
    "0F0 0F1 0B0 0B1\npairs: 0F1&0I0": "no rank runs 0I0, correct the pair",
    "0F0 0F1 0B0 0B1\npairs: 0F7&0B0": "no rank runs 0F7",
    "0F0 0F1 0B0 0B1\npairs: 0B0&0F1": "write an F first and then a B or an I",
    "0F0 0F1 0B0 0B1\npairs: 0F1&0F0": "write an F first",
}


@pytest.mark.parametrize("rows", FAULTS)
def test_faults_are_explained(rows: str) -> None:
    """The pair, why it cannot be, and what to do; in a program alike."""
    schedule = written(rows)
    with pytest.raises(ScheduleError) as error:
        validate(schedule)
    assert FAULTS[rows] in str(error.value)
    program = add_messages(schedule)
    with pytest.raises(ScheduleError, match="pair"):
        validate(program)


def test_pairs_that_wait_for_each_other() -> None:
    """As two ops each it is right; each pair at once waits for a half of the other."""
    apart = written("0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1")
    validate(apart)
    gang = written("0F0 0F1&0B0 0B1", "1F0 1F1&1B0 1B1")
    with pytest.raises(ScheduleError) as error:
        validate(gang)
    assert "where a pair starts only once both its ops can: deadlock" in str(error.value)
    assert "(0F1) waits for 1B0" in str(error.value)


def test_a_fused_pair_waits_for_both_and_ends_at_once() -> None:
    """Rank 0's pair waits for 1B0, and rank 1 for its end; without fusion 0F1 does not wait."""
    schedule = written("0F0 0F1&0B0 0B1")
    fused, apart = (
        simulate(schedule, UniformCosts(schedule.problem, pair=pair)) for pair in ("2.5", None)
    )
    pair = [event for event in fused.rows[0] if str(event.op) in ("0F1", "0B0")]
    assert [(event.start_s, event.end_s) for event in pair] == [(4, 5), (5, 6.5)]
    starts = {str(event.op): event.start_s for row in fused.rows for event in row}
    assert starts["1F1"] == 6.5
    assert (fused.makespan_s, apart.makespan_s) == (11.5, 9)


def test_csv_has_no_pair_with_a_split_backward() -> None:
    """Torch's pairs are of F and B."""
    schedule = written("0F0 0F1&0I0 0W0 0B1")
    validate(schedule)
    with pytest.raises(ScheduleError, match="0F1 is paired with 0I0: export it without"):
        to_torch_csv(schedule)


def test_a_weight_gradient_may_part_a_pair() -> None:
    """Where the bound on the queue puts a W between F and I; other pairs stay."""
    rows = "r0: 0F0 0F1&0I0 0F2&0I1 0I2 0W0 0W1 0W2"
    schedule = from_text(f"# ir 1 | mine ranks=1 microbatches=3\n{rows}\n")
    validate(schedule)
    bounded = bound_weights(schedule, held=lambda op: 1, limit=1)
    validate(bounded)
    assert " ".join(map(str, bounded.rows[0])) == "0F0 0F1 0I0 0F2 0W0 0I1 0W1 0I2 0W2"
    assert {str(first) for first, _ in bounded.pairs} == {"0F1"}


@pytest.mark.parametrize("name", ["dualpipe", "seq-dualpipe-v"])
def test_messages_keep_the_pairs(name: str) -> None:
    """And a program says the schedule that it came from."""
    schedule = build(name, Problem(4, 8, 2 if name.endswith("v") else 1))
    assert schedule.pairs
    program = add_messages(schedule)
    assert isinstance(program, Program)
    assert program.schedule() == schedule


def fused_timeline(pair: object = 3) -> Timeline:
    """DualPipeV on 2 ranks, its pairs fused."""
    problem = Problem(2, 4, chunks=2)
    return simulate(
        build("dualpipe-v", problem),
        UniformCosts(problem, pair=pair),  # type: ignore[arg-type]
    )


def test_a_picture_joins_fused_ops() -> None:
    """And reads back as the schedule, pairs included."""
    timeline = fused_timeline()
    assert (
        picture(timeline).splitlines()[2].startswith("r1 .   1F0 2F0 1F1 2F1 1F2 2B0 -   2F2&1B0")
    )
    assert read(picture(timeline)) == build("dualpipe-v", Problem(2, 4, chunks=2))
    assert "&" not in picture(fused_timeline(pair=None))


def test_chrome_trace_sends_both_results_at_the_end_of_a_pair() -> None:
    """The arrow of the first op begins where the second ends."""
    timeline = fused_timeline()
    starts = {
        (record["tid"], record["ts"])
        for record in json.loads(chrome_trace([timeline]))["traceEvents"]
        if record["ph"] == "s"
    }
    ends = {str(event.op): event.end_s * 1e6 for event in timeline.rows[1]}
    assert (1, ends["1B0"]) in starts
    assert (1, ends["2F2"]) not in starts


def test_files_of_timelines_keep_the_pairs() -> None:
    """Those that ran fused, and no others."""
    timelines = (fused_timeline(), fused_timeline(pair=None))
    assert timelines[0].pairs == build("dualpipe-v", Problem(2, 4, chunks=2)).pairs
    assert not timelines[1].pairs
    assert timelines_from_json(timelines_to_json(timelines)) == timelines
