"""The kinds of op, and the sets of kinds that rules speak of.

The letters and their meaning are those of `torch.distributed.pipelining`; papers use other
letters (see the glossary). A new kind enters with its rule in `deps`, its place in `validate`,
its cost and its handler, all in one change.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What an op does; the value is the letter (or word) of the text form."""

    # compute
    F = "F"  # forward
    B = "B"  # full backward: input gradient, then weight gradient, in one
    I = "I"  # backward for the input: the gradient that the stage before waits for
    W = "W"  # backward for the weights: deferred by the linear layers until this op
    R = "R"  # recompute: make again what F did not keep, before the B or I that reads it
    # messages; SEND carries the sender's stage, RECV the receiver's
    SEND_F = "SEND_F"  # hand the stage's output to the stage after
    RECV_F = "RECV_F"  # post a receive for the stage's input
    SEND_B = "SEND_B"  # hand the gradient of the stage's input to the stage before
    RECV_B = "RECV_B"  # post a receive for the gradient of the stage's output
    # of a stage whose weights are sharded over the ranks that hold copies of it; they name no
    # micro-batch, so the field has the op's number among those of its kind and stage
    UNSHARD = "UNSHARD"  # start to gather the stage's whole weights; its first reader waits
    RESHARD = "RESHARD"  # free the whole weights
    REDUCE_GRAD = "REDUCE_GRAD"  # start to add up the copies' gradients; each keeps its shard


COMPUTE = frozenset({Kind.F, Kind.B, Kind.I, Kind.W, Kind.R})
INPUT_GRAD = frozenset({Kind.B, Kind.I})  # produce the gradient of the stage's input
WEIGHT_GRAD = frozenset({Kind.B, Kind.W})  # complete the gradient of the stage's weights
SENDS = frozenset({Kind.SEND_F, Kind.SEND_B})
RECEIVES = frozenset({Kind.RECV_F, Kind.RECV_B})
MESSAGES = SENDS | RECEIVES
SHARDING = frozenset({Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD})
