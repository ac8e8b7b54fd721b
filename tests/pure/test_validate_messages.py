"""Faults of messages: missing, superfluous, misplaced, out of order, or hanging."""

import pytest
from schedule_faults import SENT, V, after_all, delete, edited, insert, put, swap

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import Kind, Op, from_text
from longpipe.passes import add_messages
from longpipe.validate import validate

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
