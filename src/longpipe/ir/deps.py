"""The data-flow rule, written once.

Validator, simulator, send/receive pass and viewer all call `needs`; nobody spells it again.
"""

from longpipe.ir.kind import Kind
from longpipe.ir.op import Op
from longpipe.ir.placement import Placement
from longpipe.ir.problem import Problem


def provides(op: Op) -> Op:
    """The op under which others wait for this one's result: `I` for a full backward, else itself.

    A stage waits for "the input gradient of the stage after", whichever of `I` or `B` makes it.
    """
    return Op(Kind.I, op.stage, op.mb, op.seg) if op.kind is Kind.B else op


def needs(op: Op, problem: Problem) -> tuple[Op, ...]:
    """What an op reads, as `provides` names it; edges over segments come second.

    F reads the output of the stage before and the keys and values (KV) of the segment before.
    I and B read their own F, the input gradient of the stage after, and the gradient of keys and
    values (dKV) from the segment after. W reads what its I queued, R the input that its F saved
    (and the KV that it left); that R comes before its I or B is a matter of their rank's row alone.
    So is that a stage is whole where an op reads its weights: UNSHARD, RESHARD and REDUCE_GRAD read
    no op's result.

    >>> from longpipe.ir import Kind, Op, Problem
    >>> two = Problem(ranks=2, microbatches=1, segments=2)
    >>> [str(need) for need in needs(Op(Kind.F, stage=1, mb=0, seg=1), two)]
    ['0F0.1', '1F0']
    >>> [str(need) for need in needs(Op(Kind.B, stage=0, mb=0, seg=0), two)]
    ['0F0', '1I0', '0I0.1']
    """
    kind, stage, mb, seg = op
    if kind is Kind.F:
        before = (Op(Kind.F, stage - 1, mb, seg),) if stage else ()
        return (*before, Op(Kind.F, stage, mb, seg - 1)) if seg else before
    if kind is Kind.W:
        return (Op(Kind.I, stage, mb, seg),)
    if kind is Kind.R:
        return (Op(Kind.F, stage, mb, seg),)
    if kind is not Kind.B and kind is not Kind.I:
        return ()
    found = [Op(Kind.F, stage, mb, seg)]
    if stage + 1 < problem.stages:
        found.append(Op(Kind.I, stage + 1, mb, seg))
    if seg + 1 < problem.segments_of(mb):
        found.append(Op(Kind.I, stage, mb, seg + 1))
    return tuple(found)


def message_of(op: Op, stages: int) -> tuple[Op, Op] | None:
    """The (SEND, RECV) that carries a compute op's result to a neighbouring stage, if it has one.

    >>> from longpipe.ir import Kind, Op
    >>> [str(half) for half in message_of(Op(Kind.F, stage=0, mb=3), stages=2)]
    ['0SEND_F3', '1RECV_F3']
    """
    kind, stage, mb, seg = op
    if kind is Kind.F and stage + 1 < stages:
        return Op(Kind.SEND_F, stage, mb, seg), Op(Kind.RECV_F, stage + 1, mb, seg)
    if kind in (Kind.B, Kind.I) and stage:
        return Op(Kind.SEND_B, stage, mb, seg), Op(Kind.RECV_B, stage - 1, mb, seg)
    return None


def crossing(op: Op, problem: Problem, placement: Placement) -> tuple[Op, Op] | None:
    """`message_of`, but only where the two stages lie on different ranks: else it stays local."""
    pair = message_of(op, problem.stages)
    if pair is None:
        return None
    send, receive = pair
    local = placement(send.stage, send.mb) == placement(receive.stage, receive.mb)
    return None if local else pair


def matching(op: Op) -> Op:
    """The other half of a message: the RECV of a SEND, the SEND of a RECV."""
    kind, stage, mb, seg = op
    if kind is Kind.SEND_F:
        return Op(Kind.RECV_F, stage + 1, mb, seg)
    if kind is Kind.RECV_F:
        return Op(Kind.SEND_F, stage - 1, mb, seg)
    if kind is Kind.SEND_B:
        return Op(Kind.RECV_B, stage - 1, mb, seg)
    assert kind is Kind.RECV_B, f"{op} is no message"
    return Op(Kind.SEND_B, stage + 1, mb, seg)
