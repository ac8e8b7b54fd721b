"""Rows of a fixed length cut out of token files, with documents kept apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

from longpipe.data.tokens import TokenFile
from longpipe.errors import DataError

IGNORED = -100
"""Label of a position that has no target; torch's cross entropy leaves it out."""

Packing = Literal["documents", "stream"]


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence. Shapes in tokens; S is the sequence length."""

    tokens: npt.NDArray[np.int64]
    """[S]"""
    labels: npt.NDArray[np.int64]
    """[S]; `labels[i]` is the target of position i, IGNORED where there is none."""
    starts: tuple[int, ...]
    """Offsets where documents start, ascending; the first is 0."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Token files seen as rows of S tokens, back to back; made by `pack`.

    Row r of a file holds tokens r*S to (r+1)*S, and the token after them as last label. A long
    document is cut at the row's end and goes on in the next row. The last incomplete row of a file
    is left out.

    With packing "documents" no document sees another: each start is listed, and the label of a
    document's last token is IGNORED. With "stream" the file is one running text.
    """

    files: tuple[TokenFile, ...]
    sequence_length: int
    packing: Packing
    _ends: tuple[int, ...] = field(repr=False)
    """Rows of the files up to and including each one."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._ends[-1]

    @property
    def vocab_size(self) -> int:
        """Ids are smaller than this."""
        return max(file.vocab_size for file in self.files)

    @property
    def digest(self) -> str:
        """Names exactly these rows."""
        parts = [self.packing, str(self.sequence_length), *(file.digest for file in self.files)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def row(self, index: int) -> Row:
        """Row `index`, copied out of the mapped file."""
        file, begin = self._place(index)
        end = begin + self.sequence_length
        ids = np.asarray(file.tokens[begin : end + 1], dtype=np.int64)
        labels = ids[1:].copy()
        borders = self._borders(file, begin)
        labels[borders - 1] = IGNORED
        inner = borders[borders < self.sequence_length]
        return Row(ids[:-1], labels, (0, *inner.tolist()))

    def valid_tokens(self, index: int) -> int:
        """How many labels of the row are not IGNORED; reads no tokens."""
        return self.sequence_length - self._borders(*self._place(index)).size

    def _place(self, index: int) -> tuple[TokenFile, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        before = self._ends[which - 1] if which else 0
        return self.files[which], (index - before) * self.sequence_length

    def _borders(self, file: TokenFile, begin: int) -> npt.NDArray[np.int64]:
        """Offsets in (0, S] at which a document starts: the position before has no target."""
        if self.packing == "stream":
            return np.empty(0, dtype=np.int64)
        low, high = np.searchsorted(
            file.starts, [begin, begin + self.sequence_length], side="right"
        )
        return np.asarray(file.starts[low:high], dtype=np.int64) - begin


def pack(
    files: Sequence[TokenFile], sequence_length: int, packing: Packing = "documents"
) -> PackedRows:
    """See token files as rows of `sequence_length` tokens.

    Raises:
        DataError: files of different vocabularies, or not one whole row.
    """
    vocabularies = {file.vocab_size for file in files}
    if len(vocabularies) > 1:
        raise DataError(
            f"the token files have vocabularies of different sizes ({sorted(vocabularies)}): they "
            "were made by different tokenizers; train on files of one"
        )
    counts = [max(0, (file.tokens.size - 1) // sequence_length) for file in files]
    if not sum(counts):
        longest = max((file.tokens.size for file in files), default=0)
        raise DataError(
            f"the data has {longest} tokens, fewer than one sequence of {sequence_length} and its "
            f"last label: give more text, or set data.sequence_length to {longest - 1} or less"
        )
    return PackedRows(tuple(files), sequence_length, packing, tuple(accumulate(counts)))
