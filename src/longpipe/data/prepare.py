"""Text to tokens, once: the token cache."""

import hashlib
from pathlib import Path

from longpipe.data.text import DocumentSource
from longpipe.data.tokenizer import FileTokenizer, Tokenizer, train_bpe
from longpipe.data.tokens import FORMAT, write_tokens


def prepare_tokens(source: DocumentSource, tokenizer: Tokenizer, cache_dir: Path) -> Path:
    """The `.bin` of the source's tokens, made now if the cache does not hold it.

    The cache's folder is named after the source's fingerprint and the tokenizer, so that changed
    text is tokenised anew. It holds the tokenizer's file too, where there is one. Let one process
    call this while the others wait.
    """
    folder = cache_dir / f"tokens-{_key(source.fingerprint(), tokenizer.digest)}"
    path = folder / "tokens.bin"
    if folder.is_dir():
        return path
    extra = {}
    if isinstance(tokenizer, FileTokenizer):
        extra["tokenizer.json"] = tokenizer.path.read_bytes()
    return write_tokens(
        folder,
        tokenizer.encode(source.documents()),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        tokenizer=tokenizer.digest,
        source=source.describe(),
        extra_files=extra,
    )


def prepare_bpe(source: DocumentSource, vocab_size: int, cache_dir: Path) -> FileTokenizer:
    """A BPE trained on the source, made now if the cache does not hold it."""
    name = f"tokenizer-{_key(source.fingerprint(), str(vocab_size))}.json"
    return train_bpe(source, vocab_size, cache_dir / name)


def _key(*parts: str) -> str:
    return hashlib.sha256("|".join((str(FORMAT), *parts)).encode()).hexdigest()[:16]
