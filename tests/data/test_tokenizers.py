"""Tokenizers: bytes, files, and a BPE trained on the text."""

import json
from pathlib import Path

import pytest

from longpipe.data import ByteTokenizer, TextFiles, load_tokenizer, prepare_bpe
from longpipe.errors import DataError

TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind. " * 20


def source(tmp_path: Path) -> TextFiles:
    file = tmp_path / "text.txt"
    if not file.exists():
        file.write_text(TEXT)
    return TextFiles((file,))


def test_bytes_round_trip() -> None:
    tokenizer = ByteTokenizer()
    (ids,) = tokenizer.encode(["naïve €😀"])
    assert tokenizer.decode([*ids.tolist(), 256]) == "naïve €😀"
    assert ids.max() < tokenizer.vocab_size


def test_a_trained_bpe_round_trips_and_is_the_same_each_time(tmp_path: Path) -> None:
    first = prepare_bpe(source(tmp_path), 290, tmp_path / "one")
    second = prepare_bpe(source(tmp_path), 290, tmp_path / "two")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest
    assert first.vocab_size == 290
    assert first.eos_id == 0
    (ids,) = first.encode([TEXT + "€"])
    assert first.decode(ids.tolist()) == TEXT + "€"
    assert len(ids) < len(TEXT) / 2


def test_a_trained_bpe_is_taken_from_the_cache(tmp_path: Path) -> None:
    first = prepare_bpe(source(tmp_path), 290, tmp_path)
    changed = first.path.stat().st_mtime_ns
    assert prepare_bpe(source(tmp_path), 290, tmp_path).path.stat().st_mtime_ns == changed


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="257 or more"):
        prepare_bpe(source(tmp_path), 100, tmp_path)


def test_the_end_token_is_named_configured_or_known(tmp_path: Path) -> None:
    path = prepare_bpe(source(tmp_path), 290, tmp_path).path
    folder = tmp_path / "model"
    folder.mkdir()
    content = path.read_text()
    (folder / "tokenizer.json").write_text(content)
    assert load_tokenizer(folder).eos_id == 0
    assert load_tokenizer(folder, "none").eos_id is None
    other = load_tokenizer(folder, "a")
    assert other.eos_id is not None
    assert other.decode([other.eos_id]) == "a"
    assert other.digest != load_tokenizer(folder).digest
    for value in ("a", {"content": "a"}):
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": value}))
        assert load_tokenizer(folder).eos_id == other.eos_id
    with pytest.raises(DataError, match=r"has no token '<nope>'.*data.eos_token"):
        load_tokenizer(folder, "<nope>")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text(content.replace("<|endoftext|>", "<|other|>"))
    with pytest.raises(DataError, match="does not say which token ends a document"):
        load_tokenizer(folder)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_tokenizer(file)
    for content in (b'{"a": 1}', b"\xff\xfe", b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"is no tokenizer\.json"):
            load_tokenizer(file)


def test_ids_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = prepare_bpe(source(tmp_path), 290, tmp_path).path
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    (ids,) = load_tokenizer(path).encode([TEXT])
    assert ids.tolist() == oracle(TEXT, add_special_tokens=False)["input_ids"]
