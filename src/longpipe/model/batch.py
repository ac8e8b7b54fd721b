"""One micro-batch, and which tokens of a segment see which: documents packed in one row.

Shapes: B rows, S tokens of a whole sequence.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from longpipe.errors import DataError
from longpipe.ir import Segment

Starts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of tokens that travel through the pipeline together.

    `tokens` [B, S] int64; `labels` [B, S] int64: the target of each position (already shifted),
    -100 where there is none; `starts`: for each row the offsets at which its documents begin,
    ascending, the first 0. Documents do not see each other and count their positions from 0.
    `tokens` is read on the first stage only, `labels` on the last (`None`: logits are wanted).
    """

    tokens: Tensor
    labels: Tensor | None
    starts: tuple[Starts, ...]

    def __post_init__(self) -> None:
        rows, length = self.tokens.shape
        if self.labels is not None and self.labels.shape != self.tokens.shape:
            raise DataError(
                f"micro-batch: labels {list(self.labels.shape)} and tokens "
                f"{list(self.tokens.shape)} differ in shape"
            )
        if len(self.starts) != rows:
            raise DataError(f"micro-batch: {rows} rows, but starts of {len(self.starts)}")
        for row, starts in enumerate(self.starts):
            ascending = all(a < b for a, b in pairwise((*starts, length)))
            if not starts or starts[0] != 0 or not ascending:
                raise DataError(
                    f"micro-batch: document starts of row {row} must ascend from 0 and stay "
                    f"below {length}, got {starts}"
                )

    @classmethod
    def whole(cls, tokens: Tensor, labels: Tensor | None) -> "MicroBatch":
        """Rows that hold one document each."""
        return cls(tokens, labels, ((0,),) * tokens.shape[0])


@dataclass(frozen=True, slots=True)
class Pieces:
    """The documents of one segment in some rows.

    Only the first of them can have begun before the segment: `prefix` of its tokens, from
    position `first` of the sequence on, lie in earlier segments. `lengths` are the tokens of each
    document inside the segment.
    """

    rows: slice
    first: int
    prefix: int
    lengths: tuple[int, ...]


def pieces_of(starts: tuple[Starts, ...], segment: Segment) -> tuple[Pieces, ...]:
    """The pieces of `segment`, once for all rows if these are packed alike, else row by row.

    >>> pieces_of(((0, 3, 10),), Segment(1, 8, 12))
    (Pieces(rows=slice(0, 1, None), first=3, prefix=5, lengths=(2, 2)),)
    """
    if len(set(starts)) == 1:
        return (_pieces(starts[0], segment, slice(0, len(starts))),)
    return tuple(_pieces(s, segment, slice(row, row + 1)) for row, s in enumerate(starts))


def _pieces(starts: Starts, segment: Segment, rows: slice) -> Pieces:
    inside = bisect_right(starts, segment.start)
    first = starts[inside - 1]
    cuts = [segment.start, *(s for s in starts[inside:] if s < segment.stop), segment.stop]
    lengths = tuple(b - a for a, b in pairwise(cuts))
    return Pieces(rows, first, segment.start - first, lengths)


def positions_of(starts: Starts, segment: Segment) -> list[int]:
    """Position of each token of `segment` within its document.

    >>> positions_of((0, 3, 10), Segment(1, 8, 12))
    [5, 6, 0, 1]
    """
    pieces = _pieces(starts, segment, slice(0, 1))
    positions = list(range(pieces.prefix, pieces.prefix + pieces.lengths[0]))
    for length in pieces.lengths[1:]:
        positions.extend(range(length))
    return positions
