"""Rows and batches: what stands in them, in which order, and that a loader resumes exactly."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longpipe.data import IGNORED, Loader, PackedRows, TokenFile, open_tokens, pack, write_tokens
from longpipe.data.loader import Batch, epoch_order
from longpipe.errors import DataError


def token_file(lengths: list[int], vocab_size: int = 1000) -> TokenFile:
    """A file in memory whose ids count up: id i stands at place i."""
    ids = np.arange(sum(lengths), dtype=np.uint16)
    starts = np.cumsum([0, *lengths[:-1]])
    return TokenFile(Path("memory.bin"), ids, starts, vocab_size, None, f"{lengths}")


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    sequence_length=st.integers(1, 9),
)
@settings(deadline=None, max_examples=200)
def test_rows_hold_every_token_and_labels_stay_in_their_document(
    lengths: list[int], sequence_length: int
) -> None:
    file = token_file(lengths)
    if sum(lengths) <= sequence_length:
        with pytest.raises(DataError, match="fewer than one sequence"):
            pack([file], sequence_length)
        return
    rows = pack([file], sequence_length)
    document = np.repeat(np.arange(len(lengths)), lengths)
    for index in range(rows.rows):
        row = rows.row(index)
        places = np.arange(sequence_length) + index * sequence_length
        assert row.tokens.tolist() == places.tolist()
        same = document[places] == document[places + 1]
        assert row.labels.tolist() == np.where(same, places + 1, IGNORED).tolist()
        inside = document[places]
        changes = np.flatnonzero(np.diff(inside)) + 1
        assert row.starts == (0, *changes.tolist())
        assert rows.valid_tokens(index) == int((row.labels != IGNORED).sum())
    assert (rows.rows + 1) * sequence_length >= sum(lengths) - 1


def test_a_stream_has_no_borders() -> None:
    rows = pack([token_file([3, 3, 3])], 4, "stream")
    assert rows.rows == 2
    assert rows.row(0).labels.tolist() == [1, 2, 3, 4]
    assert rows.row(1).starts == (0,)
    assert rows.valid_tokens(0) == 4


def test_several_files_follow_each_other() -> None:
    rows = pack([token_file([9]), token_file([2]), token_file([13])], 4)
    assert rows.rows == 2 + 0 + 3
    assert [int(rows.row(index).tokens[0]) for index in range(5)] == [0, 4, 0, 4, 8]
    with pytest.raises(DataError, match=r"different sizes \(\[5, 1000\]\)"):
        pack([token_file([9]), token_file([9], vocab_size=5)], 4)


def loader(seed: int = 0, replica: int = 0, replicas: int = 1) -> Loader:
    rows = pack([token_file([5, 1, 30, 2, 17, 46])], 8)
    return Loader(rows, seed, replica=replica, replicas=replicas)


def flat(batch: Batch) -> list[list[int]]:
    rows: list[list[int]] = batch.tokens.reshape(-1, batch.tokens.shape[-1]).tolist()
    return rows


def assert_equal(left: Batch, right: Batch) -> None:
    assert np.array_equal(left.tokens, right.tokens)
    assert np.array_equal(left.labels, right.labels)
    assert left.starts == right.starts
    assert left.valid_tokens == right.valid_tokens
    assert left.global_valid_tokens == right.global_valid_tokens


def test_a_batch_has_its_shapes_and_counts() -> None:
    batch = loader().next_batch(3, 2)
    assert batch.tokens.shape == batch.labels.shape == (3, 2, 8)
    assert batch.tokens.dtype == batch.labels.dtype == np.int64
    assert [len(starts) for starts in batch.starts] == [2, 2, 2]
    assert batch.valid_tokens == batch.global_valid_tokens == int((batch.labels != IGNORED).sum())


def test_an_epoch_reads_each_row_once_and_epochs_differ() -> None:
    one = loader()
    rows = 12
    epochs = [[one.next_batch(1, 1).tokens[0, 0, 0].item() for _ in range(rows)] for _ in range(3)]
    assert all(Counter(epoch) == Counter(range(0, 96, 8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert one.epoch == 3


def test_batches_across_an_epochs_end_lose_nothing() -> None:
    one = loader()
    seen = Counter(row[0] for _ in range(12) for row in flat(one.next_batch(5, 1)))
    assert set(seen.values()) == {5}


def test_the_order_is_fixed_for_all_time() -> None:
    bits = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & bits
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & bits
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & bits
        return x ^ (x >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF, "the first number of splitmix64 from seed 0"
    key = mix(mix(5) ^ 2)
    expected = sorted(range(50), key=lambda row: mix((row + key) & bits))
    assert epoch_order(50, 5, 2).tolist() == expected
    assert epoch_order(8, 0, 0).tolist() == [4, 0, 1, 7, 6, 2, 5, 3]
    assert epoch_order(8, -1, 3).tolist() == epoch_order(8, (1 << 64) - 1, 3).tolist()


@pytest.mark.parametrize("before", [0, 1, 5, 11, 12, 13, 30])
def test_a_resumed_loader_goes_on_exactly(before: int) -> None:
    undisturbed, first, second = loader(), loader(), loader()
    for _ in range(before):
        undisturbed.next_batch(2, 1)
        first.next_batch(2, 1)
    second.load_state(json.loads(json.dumps(first.state())))
    for _ in range(15):
        assert_equal(undisturbed.next_batch(2, 1), second.next_batch(2, 1))


def test_replicas_share_the_global_batch_and_may_change_at_a_resume() -> None:
    whole = loader()
    parts = [loader(replica=replica, replicas=3) for replica in range(3)]
    for _ in range(5):
        expected = whole.next_batch(6, 1)
        got = [part.next_batch(2, 1) for part in parts]
        assert [row for batch in got for row in flat(batch)] == flat(expected)
        assert {batch.global_valid_tokens for batch in got} == {expected.valid_tokens}
        assert sum(batch.valid_tokens for batch in got) == expected.valid_tokens
    resumed = loader()
    resumed.load_state(parts[1].state())
    assert_equal(resumed.next_batch(6, 1), whole.next_batch(6, 1))


def test_a_state_of_other_data_or_another_seed_is_refused() -> None:
    state = loader().state()
    with pytest.raises(DataError, match=r"data\.seed = 0"):
        loader(seed=1).load_state(state)
    other = Loader(pack([token_file([101])], 8), 0)
    with pytest.raises(DataError, match=r"made with other data.*train\.out_dir"):
        other.load_state(state)
    with pytest.raises(DataError, match="not a loader state"):
        loader().load_state({"sequences": 3})


def test_a_big_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    documents = (np.full(1 << 18, 7) for _ in range(32))
    path = write_tokens(
        tmp_path / "t", documents, vocab_size=8, eos_id=None, tokenizer="t", source="s"
    )
    rows: PackedRows = pack([open_tokens(path, verify=False)], 1 << 16)
    assert rows.rows == 127
    base = rows.files[0].tokens
    assert isinstance(base, np.memmap)
    assert np.shares_memory(base, rows.files[0].tokens)
    assert not np.shares_memory(base, rows.row(3).tokens)
