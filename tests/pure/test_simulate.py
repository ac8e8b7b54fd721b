"""The engine against numbers worked out by hand; the papers' tables are in the schedules' tests."""

import sys
from fractions import Fraction

import pytest

from longpipe import (
    Costs,
    Op,
    Placement,
    Problem,
    Program,
    Schedule,
    ScheduleError,
    Timeline,
    UniformCosts,
    add_messages,
    build,
    entries,
    simulate,
)
from longpipe.ir import Kind, loop
from longpipe.simulate import title


def schedule_of(problem: Problem, *rows: str) -> Schedule:
    """A hand-written schedule."""
    ops = tuple(tuple(map(Op.parse, row.split())) for row in rows)
    return Schedule("by-hand", problem, loop(problem.ranks, problem.chunks), ops)


def times(timeline: Timeline, rank: int) -> list[tuple[str, float, float]]:
    """What a rank did, readable."""
    return [(str(event.op), event.start_s, event.end_s) for event in timeline.rows[rank]]


class TableCosts:
    """Costs given op by op, to try what no formula gives."""

    tick_s = 0.5
    cell_bytes = 10.0

    def __init__(
        self,
        ticks: dict[str, float],
        delay: dict[str, float] | None = None,
        scratch: dict[str, float] | None = None,
    ) -> None:
        self._ticks, self._delay, self._scratch = ticks, delay or {}, scratch or {}
        self.asked = 0

    def ticks(self, op: Op) -> float:
        self.asked += 1
        return self._ticks.get(str(op), 1)

    def delay(self, op: Op, source: int, destination: int) -> float:
        assert source != destination, "nobody sends to itself"
        return self._delay.get(str(op), 0)

    def holds(self, op: Op) -> float:
        return {Kind.F: 3, Kind.I: -1, Kind.W: -2, Kind.B: -3}.get(op.kind, 0)

    def scratch(self, op: Op) -> float:
        return self._scratch.get(str(op), 0)


TWO = schedule_of(Problem(ranks=2, microbatches=1), "0F0 0B0", "1F0 1B0")


def test_an_op_starts_when_its_rank_is_free_and_its_inputs_are_there() -> None:
    """Times are ticks times tick_s; a rank waits for what the other has not made yet."""
    timeline = simulate(TWO, TableCosts({"0F0": 3, "1F0": 5, "1B0": 2}))
    assert times(timeline, 0) == [("0F0", 0.0, 1.5), ("0B0", 5.0, 5.5)]
    assert times(timeline, 1) == [("1F0", 1.5, 4.0), ("1B0", 4.0, 5.0)]
    assert timeline.makespan_s == 5.5
    assert timeline.source == "simulated"


def test_a_message_takes_time_only_between_ranks() -> None:
    """The delay is that of the op whose result travels, input gradients under their own name."""
    timeline = simulate(TWO, TableCosts({}, delay={"0F0": 4, "1I0": 2, "1F0": 99}))
    assert times(timeline, 1) == [("1F0", 2.5, 3.0), ("1B0", 3.0, 3.5)]
    assert times(timeline, 0) == [("0F0", 0.0, 0.5), ("0B0", 4.5, 5.0)]


def test_neighbouring_stages_on_one_rank_hand_over_at_once() -> None:
    """A V placement has its turn on the last rank, which needs no message."""
    problem = Problem(ranks=2, microbatches=1, chunks=2)
    timeline = simulate(build("zb-v", problem), UniformCosts(problem, comm=7))
    turn = {str(event.op): event for event in timeline.rows[1]}
    assert turn["2F0"].start_s == turn["1F0"].end_s


def test_waits_tell_messages_in_flight_from_work_elsewhere() -> None:
    """Of the gap before 0B0 the last tick is the message; before that rank 1 still computes."""
    timeline = simulate(TWO, TableCosts({"1B0": 3}, delay={"1I0": 1, "0F0": 2}))
    assert timeline.waits_s == ((0.0, 0.5), (1.0, 0.0))


def test_a_message_that_arrives_while_its_reader_is_busy_costs_nothing() -> None:
    """Rank 1 still runs micro-batch 0 when the message of micro-batch 1 is under way."""
    problem = Problem(ranks=2, microbatches=2)
    rows = "0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"
    timeline = simulate(schedule_of(problem, *rows), TableCosts({"1F0": 9}, delay={"0F1": 3}))
    assert timeline.waits_s is not None
    assert timeline.waits_s[1] == (0.0, 0.0, 0.0, 0.0)
    assert timeline.rows[1][1].start_s == timeline.rows[1][0].end_s


def test_memory_follows_the_order_and_peaks_during_an_op() -> None:
    """`holds` stays after the op, `scratch` is on top of what was held before it; in cell_bytes."""
    timeline = simulate(TWO, TableCosts({}, scratch={"0F0": 5, "0B0": 1}))
    assert [(event.memory, event.peak) for event in timeline.rows[0]] == [(30, 50), (0, 40)]
    assert [(event.memory, event.peak) for event in timeline.rows[1]] == [(30, 30), (0, 30)]


def test_segments_wait_for_each_other() -> None:
    """KV orders forwards, dKV orders backwards, also where the ranks differ in speed."""
    problem = Problem(ranks=1, microbatches=1, segments=2)
    timeline = simulate(schedule_of(problem, "0F0 0F0.1 0B0.1 0B0"), TableCosts({"0F0.1": 2}))
    assert times(timeline, 0) == [
        ("0F0", 0.0, 0.5),
        ("0F0.1", 0.5, 1.5),
        ("0B0.1", 1.5, 2.0),
        ("0B0", 2.0, 2.5),
    ]


def test_uneven_segments() -> None:
    """Each micro-batch's segments cost their share of it: its time is the same however cut."""
    problem = Problem(ranks=2, microbatches=2, segments=(3, 2))
    timeline = simulate(build("seq1f1b", problem), UniformCosts(problem))
    for mb in (0, 1):
        spans = [e.end_s - e.start_s for e in timeline.rows[0] if e.op.mb == mb]
        assert sum(spans) == pytest.approx(3.0, abs=1e-12)


def test_fractions_stay_fractions_until_the_end() -> None:
    """Thirds added a thousand times give a whole number: nothing is rounded on the way."""
    problem = Problem(ranks=1, microbatches=1000)
    third = {f"0{kind}{mb}": Fraction(1, 3) for kind in "FB" for mb in range(1000)}
    timeline = simulate(build("1f1b", problem), TableCosts(third))
    assert timeline.makespan_s == float(Fraction(2000, 3) * Fraction(1, 2))


def test_a_program_is_simulated_by_its_compute_ops() -> None:
    """Messages are in the costs' delay, so they change nothing."""
    problem = Problem(ranks=4, microbatches=6)
    schedule = build("1f1b", problem)
    program = add_messages(schedule)
    assert isinstance(program, Program)
    costs = UniformCosts(problem, comm=1)
    assert simulate(program, costs) == simulate(schedule, costs)


def test_stages_that_change_rank_by_micro_batch() -> None:
    """Two pipes in opposite directions: each micro-batch's placement counts."""
    problem = Problem(ranks=2, microbatches=2)
    rows = "0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"
    ops = tuple(tuple(map(Op.parse, row.split())) for row in rows)
    both = Schedule("", problem, Placement(2, ((0, 1), (1, 0))), ops)
    timeline = simulate(both, UniformCosts(problem))
    assert timeline.makespan_s == 6.0
    assert [event.start_s for event in timeline.rows[0]] == [0, 1, 2, 4]


def test_deadlock_is_told() -> None:
    """The walk's message comes through."""
    problem = Problem(ranks=2, microbatches=1)
    stuck = schedule_of(problem, "0B0 0F0", "1F0 1B0")
    with pytest.raises(ScheduleError, match="0B0"):
        simulate(stuck, UniformCosts(problem))


def test_title_is_the_header_of_the_text_form() -> None:
    """Size and placement in one line."""
    uneven = Problem(ranks=2, microbatches=2, segments=(3, 2))
    assert title(build("seq1f1b", uneven)) == "seq1f1b ranks=2 microbatches=2 segments=[3,2]"
    problem = Problem(ranks=2, microbatches=2, chunks=2)
    assert title(build("zb-v", problem)) == "zb-v ranks=2 microbatches=2 chunks=2 placement=v"


@pytest.mark.parametrize("name", [entry.name for entry in entries()])
def test_simulation_is_deterministic(name: str) -> None:
    """Twice the same schedule and costs, twice the same timeline."""
    chunks = {entry.name: 2 if entry.chunks is None else entry.chunks for entry in entries()}
    segments = 4 if name == "slimpipe" else 1
    problem = Problem(4, 8, chunks[name], segments)
    costs = UniformCosts(problem, 1, "1.2", "0.8", "0.05")
    assert simulate(build(name, problem), costs) == simulate(build(name, problem), costs)


def test_work_grows_linearly_with_the_ops() -> None:
    """Ten times the ops make ten times the Python calls and questions: counted, not timed."""

    def work(microbatches: int) -> tuple[int, int]:
        problem = Problem(ranks=4, microbatches=microbatches)
        schedule, costs = build("1f1b", problem), TableCosts({})
        calls = _calls(schedule, costs)
        assert costs.asked == schedule.ops
        return schedule.ops, calls

    few, many = work(40), work(400)
    assert many[0] == 10 * few[0]
    assert many[1] == pytest.approx(10 * few[1], rel=0.05)


def _calls(schedule: Schedule, costs: Costs) -> int:
    """Python functions entered (and generators resumed) by one simulation."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        simulate(schedule, costs)
    finally:
        sys.setprofile(None)
    return calls
