"""Every result that crosses to another rank has one SEND and one RECV, at places that work."""

from longpipe.errors import ScheduleError
from longpipe.ir import MESSAGES, SENDS, Kind, Op, Program, crossing, matching
from longpipe.validate.complete import Places


def check_messages(program: Program, places: Places) -> None:
    """None missing, none superfluous, SEND after its producer and RECV before its reader.

    Raises ScheduleError if not.
    """
    expected = messages = 0
    for rank, row in enumerate(program.rows):
        for position, op in enumerate(row):
            if op.kind in MESSAGES:
                messages += 1
            elif pair := crossing(op, program.problem, program.placement):
                _check_pair(program, places, rank, position, *pair)
                expected += 2
    if messages != expected:
        raise ScheduleError(_superfluous(program))


def _check_pair(
    program: Program, places: Places, rank: int, position: int, send: Op, receive: Op
) -> None:
    op = program.rows[rank][position]
    peer = program.placement(receive.stage, receive.mb)
    for half, owner, where in ((send, rank, "right after"), (receive, peer, "before its reader")):
        if half not in places:
            raise ScheduleError(
                f"rank {rank}, op {position}: the result of {op} goes to rank {peer}, but rank "
                f"{owner} has no {half}: add it {where}, or let passes.add_messages do it"
            )
    if places[send] < position:
        raise ScheduleError(
            f"rank {rank}, op {places[send]}: {send} comes before {op} (op {position}), "
            f"which makes what it sends: move it after {op}"
        )
    reads = Kind.F if send.kind is Kind.SEND_F else Kind.I
    reader = places[receive._replace(kind=reads)]
    if places[receive] > reader:
        raise ScheduleError(
            f"rank {peer}, op {places[receive]}: {receive} comes after "
            f"{program.rows[peer][reader]} (op {reader}), which reads it: move it before that op"
        )


def _superfluous(program: Program) -> str:
    """Name the first message that carries nothing to another rank."""
    makes = {Kind.SEND_F: Kind.F, Kind.SEND_B: Kind.I}
    for rank, row in enumerate(program.rows):
        for position, op in enumerate(row):
            if op.kind not in MESSAGES:
                continue
            send = op if op.kind in SENDS else matching(op)
            at_end = not 0 <= matching(op).stage < program.problem.stages
            producer = send._replace(kind=makes[send.kind])
            if at_end:
                return (
                    f"rank {rank}, op {position}: {op} has no other end, since stage {op.stage} is "
                    "the first or last of the model: delete it"
                )
            if crossing(producer, program.problem, program.placement) is None:
                return (
                    f"rank {rank}, op {position}: {op} is superfluous, stages {send.stage} and "
                    f"{matching(send).stage} both lie on rank {rank} and hand over there: delete it"
                )
    raise AssertionError("the number of messages is wrong, yet each has its place")
