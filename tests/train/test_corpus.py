"""From a [data] section to rows."""

from pathlib import Path

import numpy as np
import pytest

from longpipe.errors import DataError
from longpipe.train.config import DataConfig
from longpipe.train.corpus import open_corpus

TEXT = "It was the best of times, it was the worst of times.\n\n" * 30


def section(tmp_path: Path, **settings: object) -> DataConfig:
    text = tmp_path / "text.txt"
    if not text.exists():
        text.write_text(TEXT)
    base: dict[str, object] = {
        "paths": (str(text),),
        "sequence_length": 32,
        "cache_dir": str(tmp_path / "cache"),
    }
    return DataConfig(**(base | settings))  # type: ignore[arg-type]


def test_text_as_bytes(tmp_path: Path) -> None:
    corpus = open_corpus(section(tmp_path, separator="\n\n"))
    assert corpus.rows.vocab_size == 257
    assert corpus.tokenizer is not None
    assert corpus.rows.row(0).tokens.tolist() == list(TEXT.encode()[:32])
    assert corpus.rows.row(1).starts == (0, 21)


def test_text_with_a_trained_tokenizer_and_then_with_its_file(tmp_path: Path) -> None:
    trained = open_corpus(section(tmp_path, tokenizer="train", vocab_size=270))
    assert trained.rows.vocab_size == 270
    (file,) = (tmp_path / "cache").glob("tokenizer-*.json")
    again = open_corpus(section(tmp_path, tokenizer=str(file)))
    assert again.rows.digest == trained.rows.digest
    assert len(list((tmp_path / "cache").glob("tokens-*"))) == 1


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set"
    datasets.Dataset.from_dict({"text": [TEXT, TEXT]}).save_to_disk(str(folder))
    corpus = open_corpus(section(tmp_path, kind="dataset", paths=(str(folder),)))
    assert corpus.rows.files[0].starts.tolist() == [0, len(TEXT) + 1]


def test_token_files_with_and_without_a_sidecar(tmp_path: Path) -> None:
    open_corpus(section(tmp_path))
    (path,) = (tmp_path / "cache").glob("tokens-*/tokens.bin")
    assert open_corpus(section(tmp_path, kind="tokens", paths=(str(path),))).tokenizer is None
    bare = tmp_path / "bare.bin"
    np.arange(100, dtype="<u2").tofile(bare)
    settings = {"kind": "tokens", "paths": (str(bare),), "token_dtype": "uint16", "eos_id": 7}
    corpus = open_corpus(section(tmp_path, vocab_size=100, **settings))
    assert corpus.rows.row(0).starts == (0, 8)
    with pytest.raises(DataError, match=r"data\.vocab_size is 50"):
        open_corpus(section(tmp_path, vocab_size=50, **settings))


def test_damage_in_the_cache_is_found_by_the_rank_that_verifies(tmp_path: Path) -> None:
    open_corpus(section(tmp_path))
    (path,) = (tmp_path / "cache").glob("tokens-*/tokens.bin")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    open_corpus(section(tmp_path), verify=False)
    with pytest.raises(DataError, match=r"tokens\.bin is corrupt.*made again from: 1 text file"):
        open_corpus(section(tmp_path))
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    open_corpus(section(tmp_path))
