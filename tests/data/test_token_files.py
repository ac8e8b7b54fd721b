"""Token files: written whole, mapped, and refused when anything about them is off."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longpipe.data import (
    ByteTokenizer,
    TextFiles,
    load_tokenizer,
    open_bare_tokens,
    open_tokens,
    prepare_bpe,
    prepare_tokens,
    write_tokens,
)
from longpipe.errors import DataError

DOCUMENTS = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([4]), np.array([5, 6])]


def write(folder: Path, vocab_size: int = 10, eos_id: int | None = 9) -> Path:
    return write_tokens(
        folder,
        DOCUMENTS,
        vocab_size=vocab_size,
        eos_id=eos_id,
        tokenizer="t",
        source="the test's own",
    )


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(10, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_documents_end_with_eos_and_their_starts_are_known(
    tmp_path: Path, vocab_size: int, dtype: str
) -> None:
    file = open_tokens(write(tmp_path / "t", vocab_size))
    assert file.tokens.tolist() == [1, 2, 3, 9, 4, 9, 5, 6, 9]
    assert file.starts.tolist() == [0, 4, 6]
    assert file.tokens.dtype == dtype
    assert isinstance(file.tokens, np.memmap)


def test_without_eos_documents_stand_back_to_back(tmp_path: Path) -> None:
    file = open_tokens(write(tmp_path / "t", eos_id=None))
    assert file.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert file.starts.tolist() == [0, 3, 4]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.idx", "tokens.json"])
@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_file_is_named_with_the_way_out(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "t")
    if name == "tokens.json" and damage is flip:
        path.with_name(name).write_text('{"format": 1}')
    else:
        damage(path.with_name(name))
    with pytest.raises(DataError, match=name) as caught:
        open_tokens(path)
    assert "again" in str(caught.value)


def test_sizes_are_checked_even_without_hashes(tmp_path: Path) -> None:
    path = write(tmp_path / "t")
    flip(path)
    open_tokens(path, verify=False)
    truncate(path)
    with pytest.raises(DataError, match="truncated or of another run"):
        open_tokens(path, verify=False)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t")
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"format": 7}))
    with pytest.raises(DataError, match="format 7"):
        open_tokens(path)


@pytest.mark.parametrize(
    ("name", "value"), [("tokens", None), ("documents", "3"), ("bin_sha256", None), ("eos_id", "x")]
)
def test_a_sidecar_without_a_count_is_refused(tmp_path: Path, name: str, value: object) -> None:
    path = write(tmp_path / "t")
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {name: value}))
    with pytest.raises(DataError, match=f"corrupt .{name} is {value!r}"):
        open_tokens(path)


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text in it"):
        write_tokens(tmp_path / "t", [], vocab_size=3, eos_id=None, tokenizer="t", source="nothing")
    with pytest.raises(DataError, match=r"document 0 has an id outside 0\.\.2"):
        write(tmp_path / "t", vocab_size=3, eos_id=None)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_write_the_same_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "t")
    assert write(tmp_path / "t") == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_text_is_tokenised_once_and_again_when_it_changes(tmp_path: Path) -> None:
    text, cache = tmp_path / "a.txt", tmp_path / "cache"
    text.write_text("abc")
    tokenizer = ByteTokenizer()
    first = prepare_tokens(TextFiles((text,)), tokenizer, cache)
    changed = first.stat().st_mtime_ns
    assert prepare_tokens(TextFiles((text,)), tokenizer, cache) == first
    assert first.stat().st_mtime_ns == changed
    text.write_text("abcd")
    second = prepare_tokens(TextFiles((text,)), tokenizer, cache)
    assert second != first
    assert open_tokens(second).tokens.tolist() == [97, 98, 99, 100, 256]
    assert open_tokens(second).digest != open_tokens(first).digest


def test_the_cache_holds_the_tokenizer(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("some text for a tokenizer")
    source = TextFiles((text,))
    tokenizer = prepare_bpe(source, 260, tmp_path / "cache")
    path = prepare_tokens(source, tokenizer, tmp_path / "cache")
    assert load_tokenizer(path.parent).digest == tokenizer.digest
    ids = open_tokens(path).tokens.tolist()
    assert tokenizer.decode(ids[:-1]) == "some text for a tokenizer"
    assert ids[-1] == tokenizer.eos_id


def test_bare_ids_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.array([1, 2, 0, 3, 0, 0, 4, 0], dtype="<u2").tofile(path)
    file = open_bare_tokens(path, dtype="uint16", vocab_size=5, eos_id=0)
    assert file.starts.tolist() == [0, 3, 5, 6]
    assert open_bare_tokens(path, dtype="uint16", vocab_size=5).starts.tolist() == [0]
    with pytest.raises(DataError, match=r"id 4 at token 6, but data\.vocab_size is 4"):
        open_bare_tokens(path, dtype="uint16", vocab_size=4)
    with pytest.raises(DataError, match=r"'int8' is not one of uint16, uint32"):
        open_bare_tokens(path, dtype="int8", vocab_size=4)
    with pytest.raises(DataError, match=r"no tokens\.json|no train\.json beside it"):
        open_tokens(path)
    truncate(path)
    with pytest.raises(DataError, match="not a whole number of uint16 ids"):
        open_bare_tokens(path, dtype="uint16", vocab_size=5)
