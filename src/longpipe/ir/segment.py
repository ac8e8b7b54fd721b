"""A contiguous slice of one micro-batch's sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from longpipe.errors import PlanError


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `stop` (exclusive) of a sequence, the `index`-th slice of it."""

    index: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        """Length in tokens."""
        return self.stop - self.start


def segments_from_lengths(lengths: Sequence[int]) -> tuple[Segment, ...]:
    """Segments of the given lengths, in order.

    >>> segments_from_lengths([5, 3])
    (Segment(index=0, start=0, stop=5), Segment(index=1, start=5, stop=8))
    """
    if not lengths or any(length < 1 for length in lengths):
        raise PlanError(f"every segment needs at least one token, got lengths {list(lengths)}")
    borders = accumulate(lengths, initial=0)
    return tuple(Segment(i, a, b) for i, (a, b) in enumerate(pairwise(borders)))
