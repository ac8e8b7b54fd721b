"""Rewrites: what they add, what they keep, and that nothing they make can hang."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.errors import ScheduleError
from longpipe.ir import Kind, Op, Problem, Schedule, loop, to_text
from longpipe.passes import add_messages, bound_weights
from longpipe.schedules import build
from longpipe.validate import validate

SPLIT = build("seq-zb-h1", Problem(ranks=4, microbatches=3, segments=4))


def test_every_schedule_gets_messages_that_never_hang(schedules: tuple[Schedule, ...]) -> None:
    for schedule in schedules:
        if schedule.ops > 2000:
            continue
        validate(schedule)
        program = add_messages(schedule)
        assert program.schedule() == schedule
        for buffers in (0, 1, 2):
            validate(program, buffers=buffers)


def test_places_of_messages() -> None:
    """SEND right after its op; RECV no sooner than the op that runs while the message is made."""
    program = add_messages(build("seq1f1b", Problem(ranks=2, microbatches=1, segments=2)))
    assert to_text(program) == (
        "# ir 1 | seq1f1b ranks=2 microbatches=1 segments=2 level=program\n"
        "r0: 0F0 0SEND_F0 0F0.1 0SEND_F0.1 0RECV_B0.1 0RECV_B0 0B0.1 0B0\n"
        "r1: 1RECV_F0 1RECV_F0.1 1F0 1F0.1 1B0.1 1SEND_B0.1 1B0 1SEND_B0\n"
    )


def test_stages_of_one_rank_hand_over_locally() -> None:
    program = add_messages(build("zb-v", Problem(ranks=2, microbatches=4, chunks=2)))
    turn = {f"{kind}{mb}" for kind in ("1SEND_F", "2RECV_F", "2SEND_B") for mb in range(4)}
    assert not turn & {str(op) for row in program.rows for op in row}
    alone = Schedule("", Problem(1, 1), loop(1), ((Op.parse("0F0"), Op.parse("0B0")),))
    assert add_messages(alone).rows == alone.rows


def test_a_deadlock_gets_no_messages() -> None:
    rows = ("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1")
    ops = tuple(tuple(map(Op.parse, row.split())) for row in rows)
    with pytest.raises(ScheduleError, match="deadlock"):
        add_messages(Schedule("", Problem(2, 2), loop(2), ops))


def held(weight: Op) -> int:
    return 10 + weight.seg  # later segments queue more


def queue_peak(row: tuple[Op, ...]) -> int:
    now = peak = 0
    for op in row:
        if op.kind is Kind.I:
            now += held(op)
            peak = max(peak, now)
        elif op.kind is Kind.W:
            now -= held(op)
    return peak


@settings(deadline=None, max_examples=60)
@given(limit=st.integers(13, 80), messages=st.booleans())
def test_weight_queue_stays_within_its_limit(limit: int, messages: bool) -> None:
    before = add_messages(SPLIT) if messages else SPLIT
    after = bound_weights(before, held, limit)
    assert type(after) is type(before)
    validate(after)
    for old, new in zip(before.rows, after.rows, strict=True):
        assert queue_peak(new) <= limit
        if queue_peak(old) <= limit:
            assert new == old
        for keep in (True, False):  # W among themselves, and all the rest, keep their order
            assert [op for op in new if (op.kind is Kind.W) is keep] == [
                op for op in old if (op.kind is Kind.W) is keep
            ]


def test_a_weight_runs_no_sooner_than_the_limit_asks() -> None:
    row = tuple(map(Op.parse, ["0F0", "0F1", "0F2", "0I0", "0I1", "0I2", "0W0", "0W1", "0W2"]))
    schedule = Schedule("", Problem(1, 3), loop(1), (row,))
    assert bound_weights(schedule, held, 30).rows == schedule.rows
    two = bound_weights(schedule, held, 29).rows[0]
    assert " ".join(map(str, two)) == "0F0 0F1 0F2 0I0 0I1 0W0 0I2 0W1 0W2"


def test_an_entry_over_the_limit_is_refused() -> None:
    with pytest.raises(
        ScheduleError, match=r"rank 0, op \d+: 0I0.3 queues 13 bytes for 0W0.3, more"
    ):
        bound_weights(SPLIT, held, 12)


def test_full_backwards_queue_nothing() -> None:
    schedule = build("1f1b", Problem(2, 4))
    assert bound_weights(schedule, held, 0) == schedule
