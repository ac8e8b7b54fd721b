"""The definitions of the two bubbles, of idle time by reason, and of peak memory."""

from fractions import Fraction

import pytest

from longpipe import (
    Event,
    Op,
    Problem,
    ProblemError,
    Timeline,
    UniformCosts,
    build,
    entries,
    measure,
    simulate,
)
from longpipe.simulate import small_fraction


def timeline_of(*rows: str, waits: tuple[tuple[float, ...], ...] | None = None) -> Timeline:
    """Events written as `op:start-end`."""
    events = []
    for row in rows:
        parts = [part.replace(":", "-").split("-") for part in row.split()]
        events.append(
            tuple(Event(Op.parse(op), float(start), float(end)) for op, start, end in parts)
        )
    return Timeline("by hand", "measured", tuple(events), waits)


def test_global_bubble_counts_to_the_last_op_of_any_rank() -> None:
    """Rank 0 idles 1 + 2 of 10, rank 1 idles 6: the worst rank counts."""
    found = measure(timeline_of("0F0:0-4 0B0:5-8", "1F0:4-6 1B0:8-10"))
    assert (found.makespan_s, found.busy_s) == (10, (7, 4))
    assert (found.global_bubble_s, found.global_bubble_rate) == (6, 0.6)


def test_span_bubble_counts_from_the_first_forward_to_the_last_weight_gradient() -> None:
    """Spans are 8 and 6, of which 1 and 2 are idle; the rate is over the largest span."""
    found = measure(timeline_of("0F0:0-4 0B0:5-8", "1F0:4-6 1B0:8-10"))
    assert (found.span_bubble_s, found.span_bubble_rate) == (2, 0.25)


def test_an_input_gradient_does_not_end_a_span() -> None:
    """W may come before the last I of a rank; the span ends with the last W or B."""
    found = measure(timeline_of("0F0:0-1 0F1:1-2 0I0:2-3 0W0:3-4 0W1:4-5 0I1:9-10"))
    assert found.span_bubble_s == pytest.approx(5 - 6)  # more work than span: by definition


def test_idle_time_by_reason() -> None:
    """Before the first op, between ops with and without a message in flight, after the last."""
    waits = ((0.0, 0.0), (4.0, 1.5))
    found = measure(timeline_of("0F0:0-4 0B0:12-14", "1F0:4-6 1B0:8-10", waits=waits))
    first, second = found.idle
    assert (first.warm_up_s, first.imbalance_s, first.communication_s) == (0, 8, 0)
    assert (second.warm_up_s, second.imbalance_s, second.communication_s) == (4, 0.5, 1.5)
    assert (first.cool_down_s, second.cool_down_s) == (0, 4)


def test_unknown_waits_are_not_called_zero() -> None:
    """A measured timeline that knows no waits has all its gaps under imbalance."""
    idle = measure(timeline_of("0F0:0-4 0B0:5-8")).idle[0]
    assert (idle.imbalance_s, idle.communication_s, idle.total_s) == (1, None, 1)


def test_messages_are_no_work() -> None:
    """A measured timeline may hold sends and receives; the gap that they fill stays a gap."""
    row = "0F0:0-2 0SEND_F0:2-3 0RECV_B0:3-3 0B0:6-8"
    found = measure(timeline_of(row, waits=((0, 0, 1, 2),)))
    assert (found.ops, found.busy_s) == (2, (4,))
    assert (found.idle[0].imbalance_s, found.idle[0].communication_s) == (1, 3)


def test_a_rank_without_work_only_warms_up() -> None:
    """And a timeline without any work has no bubble."""
    found = measure(timeline_of("0F0:0-2 0B0:2-4", ""))
    assert (found.idle[1].warm_up_s, found.global_bubble_s) == (4, 4)
    empty = measure(timeline_of("", ""))
    assert (empty.makespan_s, empty.global_bubble_rate, empty.span_bubble_rate) == (0, 0, 0)


def test_peaks_are_those_seen_and_none_if_nobody_looked() -> None:
    """The peak during an op counts, and what is held after it."""
    op = Op.parse("0F0")
    seen = Timeline("", "measured", ((Event(op, 0, 1, memory=3, peak=7), Event(op, 1, 2, 8)),))
    assert measure(seen).peak_memory == (8,)
    assert measure(timeline_of("0F0:0-1")).peak_memory is None


@pytest.mark.parametrize("name", [entry.name for entry in entries()])
def test_reasons_add_up(name: str) -> None:
    """Busy and idle time make the makespan on each rank, with messages and unequal costs."""
    for chunks, segments in ((1, 1), (2, 1), (1, 3), (2, 2), (2, 4)):
        problem = Problem(4, 6, chunks, segments)
        try:
            schedule = build(name, problem)
        except ProblemError:
            continue
        timeline = simulate(schedule, UniformCosts(problem, 1, "1.2", "0.8", "0.3"))
        found = measure(timeline)
        for rank, (busy, idle) in enumerate(zip(found.busy_s, found.idle, strict=True)):
            assert busy + idle.total_s == pytest.approx(found.makespan_s, abs=1e-9)
            parts = (idle.warm_up_s, idle.imbalance_s, idle.communication_s, idle.cool_down_s)
            assert all(part is not None and part >= 0 for part in parts), (rank, parts)
        worst = max(idle.total_s for idle in found.idle)
        assert worst == pytest.approx(found.global_bubble_s, abs=1e-9)


def test_numbers_come_out_as_they_are_meant() -> None:
    """Rounding of the time axis is undone: 33.8, 5/3, not their neighbours."""
    problem = Problem(4, 8)
    found = measure(simulate(build("1f1b", problem), UniformCosts(problem, 1, 1.2, 0.8, 0.05)))
    assert (found.makespan_s, found.global_bubble_s) == (33.8, 9.8)
    problem = Problem(4, 8, segments=3)
    found = measure(simulate(build("seq1f1b", problem), UniformCosts(problem)))
    assert found.peak_memory == (2, 5 / 3, 4 / 3, 1)
    assert small_fraction(1 / 3, scale=1) == Fraction(1, 3)
    assert small_fraction(1 / 3 + 1e-9, scale=1) is None


def test_to_json_holds_every_field() -> None:
    """Plain values, ready for json.dumps."""
    content = measure(timeline_of("0F0:0-1 0B0:2-3")).to_json()
    assert content["idle"][0]["imbalance_s"] == 1
    assert content["peak_memory"] is None
    assert content["ops"] == 2
