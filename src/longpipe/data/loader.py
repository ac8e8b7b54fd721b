"""Batches in a fixed, shuffled order that a run can leave and take up again exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from longpipe.data.packing import PackedRows
from longpipe.errors import DataError

_ALL_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's data of one replica: m micro-batches of B rows of S tokens."""

    tokens: npt.NDArray[np.int64] = field(repr=False)
    """[m, B, S]"""
    labels: npt.NDArray[np.int64] = field(repr=False)
    """[m, B, S]; already shifted, -100 where there is no target."""
    starts: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False)
    """Document starts: per micro-batch, per row, ascending offsets from 0."""
    valid_tokens: int
    """Labels that count, in this replica's part."""
    global_valid_tokens: int
    """Labels that count in the whole global batch, over all replicas: the loss's divisor."""


class Loader:
    """Walks the rows epoch after epoch, each epoch in an order of its own.

    The order is a function of seed and epoch alone, the same on every machine and for every number
    of replicas; a batch may end one epoch and begin the next. Each rank of a pipeline holds an
    equal Loader.

    Args:
        rows: the packed data.
        seed: of the shuffle.
        replica, replicas: which part of each global batch this loader reads. Replica r gets the
            rows r*m*B to (r+1)*m*B of the global batch.
    """

    def __init__(self, rows: PackedRows, seed: int, *, replica: int = 0, replicas: int = 1) -> None:
        assert 0 <= replica < replicas, f"replica {replica} of {replicas}"
        self._rows = rows
        self._seed = seed
        self._replica = replica
        self._replicas = replicas
        self._sequences = 0
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    @property
    def epoch(self) -> int:
        """How many times all rows have been read."""
        return self._sequences // self._rows.rows

    def next_batch(self, microbatches: int, microbatch_size: int) -> Batch:
        """The next global batch's part of this replica."""
        share = microbatches * microbatch_size
        first, count = self._sequences, share * self._replicas
        indices = [self._row_at(position) for position in range(first, first + count)]
        self._sequences += count
        mine = indices[self._replica * share : (self._replica + 1) * share]
        rows = [self._rows.row(index) for index in mine]
        shape = (microbatches, microbatch_size, self._rows.sequence_length)
        starts = [row.starts for row in rows]
        return Batch(
            tokens=np.stack([row.tokens for row in rows]).reshape(shape),
            labels=np.stack([row.labels for row in rows]).reshape(shape),
            starts=tuple(
                tuple(starts[begin : begin + microbatch_size])
                for begin in range(0, share, microbatch_size)
            ),
            valid_tokens=sum(map(self._rows.valid_tokens, mine)),
            global_valid_tokens=sum(map(self._rows.valid_tokens, indices)),
        )

    def state(self) -> dict[str, Any]:
        """Where the loader stands, for JSON; the same on every replica."""
        return {"sequences": self._sequences, "seed": self._seed, "data": self._rows.digest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Stand where `state()` was taken; the number of replicas may have changed since.

        Raises:
            DataError: the state belongs to other data, another sequence length or another seed.
        """
        expected = self.state()
        if set(state) != set(expected):
            raise DataError(f"not a loader state: has {sorted(state)}, needs {sorted(expected)}")
        if state["data"] != expected["data"]:
            raise DataError(
                "the checkpoint was made with other data: the tokens, data.sequence_length or "
                "data.packing differ. Give the run its old data, or start a new run in another "
                "train.out_dir"
            )
        if state["seed"] != self._seed:
            raise DataError(
                f"the checkpoint was made with data.seed = {state['seed']}, the run has "
                f"{self._seed}: set data.seed = {state['seed']} to go on"
            )
        self._sequences = int(state["sequences"])

    def _row_at(self, position: int) -> int:
        epoch, place = divmod(position, self._rows.rows)
        if epoch != self._epoch:
            self._order = epoch_order(self._rows.rows, self._seed, epoch)
            self._epoch = epoch
        return int(self._order[place])


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `rows` that depends on seed and epoch alone: rows sorted by a hash.

    NumPy does not promise that its own shuffles stay the same from version to version, and a run
    must be able to go on after an upgrade; the hash is splitmix64 (Steele et al., OOPSLA 2014).
    """
    key = _mix(np.array([seed & _ALL_BITS], dtype=np.uint64))
    key = _mix(key ^ np.array([epoch], dtype=np.uint64))
    hashes = _mix(np.arange(rows, dtype=np.uint64) + key)
    return np.argsort(hashes, kind="stable").astype(np.int64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's step and finaliser; arithmetic wraps at 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
