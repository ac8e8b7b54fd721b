"""From the [data] section to rows of tokens."""

from dataclasses import dataclass
from pathlib import Path

from longpipe.data import (
    ByteTokenizer,
    DiskDataset,
    PackedRows,
    TextFiles,
    TokenFile,
    Tokenizer,
    find_paths,
    load_tokenizer,
    open_bare_tokens,
    open_tokens,
    pack,
    prepare_bpe,
    prepare_tokens,
)
from longpipe.train.config import DataConfig


@dataclass(frozen=True, slots=True)
class Corpus:
    """A run's data, ready to be read."""

    rows: PackedRows
    tokenizer: Tokenizer | None
    """None for token files whose tokenizer is not given."""


def open_corpus(data: DataConfig, *, verify: bool = True) -> Corpus:
    """Open the data, tokenising it first if the cache does not hold its tokens.

    Args:
        data: the section.
        verify: check the token files' hashes. Let the first rank call this with True and the
            others afterwards with False.

    Raises:
        DataError: names the file and what to do.
    """
    if data.kind == "tokens":
        files = tuple(_open(path, data, verify) for path in find_paths(data.paths))
        given = data.tokenizer not in ("bytes", "train")
        tokenizer: Tokenizer | None = None
        if given:
            tokenizer = load_tokenizer(Path(data.tokenizer), data.eos_token)
    else:
        cache_dir = Path(data.cache_dir)
        source = _source(data)
        tokenizer = _tokenizer(data, source, cache_dir)
        files = (open_tokens(prepare_tokens(source, tokenizer, cache_dir), verify=verify),)
    return Corpus(pack(files, data.sequence_length, data.packing), tokenizer)


def _open(path: Path, data: DataConfig, verify: bool) -> TokenFile:
    if data.token_dtype is None:
        return open_tokens(path, verify=verify)
    assert data.vocab_size is not None, "the config checks that bare token files have a vocab_size"
    return open_bare_tokens(
        path, dtype=data.token_dtype, vocab_size=data.vocab_size, eos_id=data.eos_id
    )


def _source(data: DataConfig) -> TextFiles | DiskDataset:
    if data.kind == "dataset":
        return DiskDataset(find_paths(data.paths, folders=True), data.text_field)
    return TextFiles(find_paths(data.paths), data.separator, data.bad_text)


def _tokenizer(data: DataConfig, source: TextFiles | DiskDataset, cache_dir: Path) -> Tokenizer:
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    if data.tokenizer == "train":
        assert data.vocab_size is not None, "the config checks that it is set"
        return prepare_bpe(source, data.vocab_size, cache_dir)
    return load_tokenizer(Path(data.tokenizer), data.eos_token)
