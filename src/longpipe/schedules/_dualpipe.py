"""The row that DualPipe and DualPipeV share: a rank with two streams of units, step by step.

A stream passes one stage of the rank. Stream 0 is the one that reaches the rank first on its way
forward, stream 1 comes back (DualPipeV) or from the other end (DualPipe). Words are those of the
reference code, github.com/deepseek-ai/DualPipe: F0 is a forward of stream 0, B1 a full backward of
stream 1, I1 its backward for the input, W the weight gradient that has been due longest, of either
stream, and F0&B1 a pair that may be fused.
"""

from collections import deque
from typing import NamedTuple

from longpipe.ir import Kind, Op, Pairs

Unit = tuple[int, int]  # (mb, seg)


class Stream(NamedTuple):
    """One stage of the rank, and its units in the order of their forwards and backwards."""

    stage: int
    forward: tuple[Unit, ...]
    backward: tuple[Unit, ...]


def dual_row(
    p: int, r: int, k: int, streams: tuple[Stream, Stream]
) -> tuple[tuple[Op, ...], Pairs]:
    """The row of rank `r` out of the `p` on the way from one end to the other, and its pairs.

    Both streams have the same number of units, at least 2p+k-1, with k the segments of a unit's
    micro-batch.
    """
    forward = [iter([Op(Kind.F, s.stage, *unit) for unit in s.forward]) for s in streams]
    backward = [iter([Op(Kind.I, s.stage, *unit) for unit in s.backward]) for s in streams]
    due: deque[Op] = deque()

    def run(word: str) -> Op:
        if word == "W":
            return due.popleft()._replace(kind=Kind.W)
        kind, stream = Kind(word[0]), int(word[1])
        if kind is Kind.F:
            return next(forward[stream])
        op = next(backward[stream])
        if kind is Kind.I:
            due.append(op)
        return op._replace(kind=kind)

    turns = [tuple(map(run, w.split("&"))) for w in _words(p, r, k, len(streams[0].forward))]
    pairs = frozenset((turn[0], turn[1]) for turn in turns if len(turn) == 2)
    return tuple(op for turn in turns for op in turn), pairs


def _words(p: int, r: int, k: int, n: int) -> list[str]:
    """The eight published steps, where k = 1.

    Over k segments backward unit i needs forward unit i+k-1 at the latest: the second step warms up
    with k-1 turns more, which the sixth gives back.
    """
    to_end, lead = p - 1 - r, k - 1
    turns = n - 2 * p + r + 1 - lead
    apart = int(to_end == 0)  # on the last rank nothing is gained by waiting for both
    words = "F0 " * (2 * to_end)
    words += "F0 F1 " * (r + 1 + lead)
    words += "I1 W F1 " * to_end
    words += "F0 B1 F1&B0 " * apart + "F0&B1 F1&B0 " * (turns - apart)
    words += "B1 F1&B0 " * to_end
    both = ("B1 B0 " * (r + 1)).split()
    words += "B1 B0 " * lead + " ".join(both[: r + 1])
    words += f" {' '.join(both[r + 1 :])} ".replace("B", "I")
    words += "W I0 " * to_end
    words += "W " * (r + 1)
    return words.split()
