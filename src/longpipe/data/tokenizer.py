"""Text to token ids: bytes, a Hugging Face tokenizer file, or a BPE trained on the corpus."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from longpipe.data.files import write_atomically
from longpipe.data.text import DocumentSource
from longpipe.errors import DataError

Ids = npt.NDArray[np.int64]

_END_OF_TEXT = "<|endoftext|>"
# Names of the end-of-document token in the files of well-known models, tried in this order.
_KNOWN_ENDS = (_END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
_DOCUMENTS_AT_ONCE = 128


class Tokenizer(Protocol):
    """What the rest needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Ids are smaller than this."""

    @property
    def eos_id(self) -> int | None:
        """Written after each document; None: documents end without a mark."""

    @property
    def digest(self) -> str:
        """Names exactly this tokenizer, so that tokens of another are not taken for its own."""

    def encode(self, documents: Iterable[str]) -> Iterator[Ids]:
        """Ids of each document, without the end-of-document token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids."""


@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, and 256 for the end of a document.

    >>> [ids.tolist() for ids in ByteTokenizer().encode(["hé"])]
    [[104, 195, 169]]
    """

    vocab_size: int = 257
    eos_id: int | None = 256
    digest: str = "bytes-1"

    def encode(self, documents: Iterable[str]) -> Iterator[Ids]:
        """The bytes of each document."""
        for text in documents:
            yield np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; ids that are no bytes are left out, broken characters replaced."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class FileTokenizer:
    """A `tokenizer.json` of the `tokenizers` library; made by `load_tokenizer`."""

    vocab_size: int
    eos_id: int | None
    digest: str
    path: Path
    _inner: tokenizers.Tokenizer = field(repr=False)

    def encode(self, documents: Iterable[str]) -> Iterator[Ids]:
        """Ids of each document; no begin or end tokens are added."""
        stream = iter(documents)
        while batch := list(islice(stream, _DOCUMENTS_AT_ONCE)):
            for encoding in self._inner.encode_batch_fast(batch, add_special_tokens=False):
                yield np.asarray(encoding.ids, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens included."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(path: Path, eos_token: str = "") -> FileTokenizer:
    """The tokenizer in a `tokenizer.json`, or in a folder that holds one.

    Args:
        path: file or folder.
        eos_token: text of the end-of-document token; "none" for no such token. Empty: the one that
            a `tokenizer_config.json` beside the file names, else the first of the usual names.

    Raises:
        DataError: no such file, not a tokenizer, or no end-of-document token can be found.
    """
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        raw = path.read_bytes()
        inner = tokenizers.Tokenizer.from_str(raw.decode("utf-8"))
    except OSError as error:
        raise DataError(f"data.tokenizer: {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # the library raises bare Exception for a file that is no tokenizer
        raise DataError(
            f"data.tokenizer: {path} is no tokenizer.json of the tokenizers library: {error}"
        ) from error
    eos_id = None if eos_token == "none" else _eos_id(path, inner, eos_token)
    digest = hashlib.sha256(raw + f"|{eos_id}".encode()).hexdigest()
    # Ids may have gaps, and a model needs a row for the largest one.
    vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1
    return FileTokenizer(vocab_size, eos_id, digest, path, inner)


def train_bpe(source: DocumentSource, vocab_size: int, path: Path) -> FileTokenizer:
    """A byte-level BPE trained on the documents, written to `path` and loaded from there.

    Training takes about a second per ten megabytes of text. If `path` exists it is loaded, not
    trained again: put what it depends on into its name.

    Raises:
        DataError: a vocabulary smaller than the 256 bytes and the end-of-document token.
    """
    if vocab_size < 257:
        raise DataError(f"data.vocab_size: a trained BPE needs 257 or more, got {vocab_size}")
    if not path.exists():
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[_END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(source.documents(), trainer)
        write_atomically(path, inner.to_str().encode("utf-8"))
    return load_tokenizer(path)


def _eos_id(path: Path, inner: tokenizers.Tokenizer, eos_token: str) -> int:
    named = eos_token or _configured_eos(path.with_name("tokenizer_config.json"))
    candidates = (named,) if named else _KNOWN_ENDS
    for name in candidates:
        found = inner.token_to_id(name)
        if found is not None:
            return int(found)
    what = f"has no token {named!r}" if named else "does not say which token ends a document"
    raise DataError(
        f"data.tokenizer: {path} {what}. Set data.eos_token to the text of one of its tokens, "
        'or to "none" to write documents without an end mark'
    )


def _configured_eos(path: Path) -> str:
    """`eos_token` of a tokenizer_config.json: a text, or a table with its `content`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a readable tokenizer configuration: {error}") from error
    return str(value.get("content", "") if isinstance(value, dict) else value or "")
