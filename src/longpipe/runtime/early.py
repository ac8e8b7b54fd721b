"""How far the ranks may run into a step that may have to start anew."""

from longpipe.ir import Kind, Op, Program, matching

_FORWARD = frozenset({Kind.F, Kind.SEND_F, Kind.RECV_F})


def early_ops(program: Program) -> tuple[int, ...]:
    """For each rank the number of ops, from the start of its row, that can be dropped again.

    They are forwards and their messages alone, so no gradient has changed yet, and both halves of
    a message are among them or neither is: once every rank has run its early ops and received what
    it asked for, nothing is in flight. No other choice with these two properties runs further.

    They never wait for an op that is not among them: those that each waits for stand before it in
    its row or at the other end of its message.

    >>> from longpipe.ir import Problem, loop
    >>> texts = ("0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1")
    >>> rows = tuple(tuple(map(Op.parse, text.split())) for text in texts)
    >>> early_ops(Program("", Problem(ranks=2, microbatches=2), loop(2), rows))
    (3, 2)
    """
    ends = [_forwards(row) for row in program.rows]
    settled = False
    while not settled:
        settled = True
        early = {op for row, end in zip(program.rows, ends, strict=True) for op in row[:end]}
        for rank, row in enumerate(program.rows):
            halves = (i for i, op in enumerate(row[: ends[rank]]) if op.kind is not Kind.F)
            cut = next((i for i in halves if matching(row[i]) not in early), ends[rank])
            settled = settled and cut == ends[rank]
            ends[rank] = cut
    return tuple(ends)


def _forwards(row: tuple[Op, ...]) -> int:
    return next((i for i, op in enumerate(row) if op.kind not in _FORWARD), len(row))
