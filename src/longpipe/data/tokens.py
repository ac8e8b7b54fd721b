"""Token files: ids in a `.bin`, document starts in an `.idx`, a `.json` that vouches for both.

`X.bin` holds little-endian uint16 or uint32 ids back to back, `X.idx` the offset of each document's
first token as little-endian int64, and `X.json` dtype, counts, vocabulary, end-of-document id and
SHA-256 of the two. Reading maps the files into memory and does not load them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longpipe.data.files import sha256_file, sync_folder, temporary_name
from longpipe.errors import DataError

FORMAT = 1
TOKEN_DTYPES = ("uint16", "uint32")
_SCAN_TOKENS = 1 << 22

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What `X.json` says."""

    dtype: str
    tokens: int
    documents: int
    vocab_size: int
    eos_id: int | None
    tokenizer: str
    """Digest of the tokenizer that made the ids."""
    source: str
    """For people: what the ids were made from."""
    bin_sha256: str
    idx_sha256: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class TokenFile:
    """An open token file."""

    path: Path
    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32] = field(repr=False)
    """[tokens], mapped."""
    starts: Offsets = field(repr=False)
    """[documents], ascending; the first is 0."""
    vocab_size: int
    eos_id: int | None
    digest: str
    """Names exactly these tokens and documents."""


def write_tokens(
    folder: Path,
    documents: Iterable[npt.NDArray[np.int64]],
    *,
    vocab_size: int,
    eos_id: int | None,
    tokenizer: str,
    source: str,
    extra_files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write documents into a new folder as `tokens.bin`, `tokens.idx` and `tokens.json`.

    The folder appears at once and whole, or not at all. `eos_id` is written after each document.
    If another process made the same folder meanwhile, its files are kept.

    Returns:
        The path of `tokens.bin`.

    Raises:
        DataError: no documents, or the disk refuses (the half-written folder is removed).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(folder)
    try:
        temporary.mkdir()
        sidecar = _write_streams(temporary, documents, vocab_size, eos_id, tokenizer, source)
        for name, content in (extra_files or {}).items():
            (temporary / name).write_bytes(content)
        # The sidecar is written last, so that files without one are known to be unfinished.
        with (temporary / "tokens.json").open("w", encoding="utf-8") as file:
            json.dump(asdict(sidecar), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        _publish(temporary, folder)
    except OSError as error:
        raise DataError(
            f"writing tokens to {folder} failed: {error.strerror or error}. Free some space, or "
            "set data.cache_dir to a folder with room; nothing half-written is left"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "tokens.bin"


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        # Another process was first; it wrote the same bytes.
        if not folder.is_dir():
            raise
    sync_folder(folder.parent)


def _write_streams(
    folder: Path,
    documents: Iterable[npt.NDArray[np.int64]],
    vocab_size: int,
    eos_id: int | None,
    tokenizer: str,
    source: str,
) -> Sidecar:
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    end = np.asarray([] if eos_id is None else [eos_id], dtype=dtype)
    bin_digest, idx_digest = hashlib.sha256(), hashlib.sha256()
    tokens = count = 0
    with (folder / "tokens.bin").open("wb") as ids_file, (folder / "tokens.idx").open("wb") as idx:
        for ids in documents:
            if not ids.size:
                continue
            if int(ids.max()) >= vocab_size or int(ids.min()) < 0:
                raise DataError(
                    f"{source}: document {count} has an id outside 0..{vocab_size - 1}: "
                    "the vocabulary is that of another tokenizer"
                )
            content = np.concatenate([ids.astype(dtype), end]).tobytes()
            start = np.asarray([tokens], dtype="<i8").tobytes()
            ids_file.write(content)
            idx.write(start)
            bin_digest.update(content)
            idx_digest.update(start)
            tokens += ids.size + end.size
            count += 1
        for file in (ids_file, idx):
            file.flush()
            os.fsync(file.fileno())
    if not count:
        raise DataError(f"{source}: no text in it; check data.paths and data.separator")
    name = "uint16" if dtype.itemsize == 2 else "uint32"
    return Sidecar(
        name, tokens, count, vocab_size, eos_id, tokenizer, source,
        bin_digest.hexdigest(), idx_digest.hexdigest(),
    )  # fmt: skip


def open_tokens(path: Path, *, verify: bool = True) -> TokenFile:
    """Open `X.bin` with its `X.idx` and `X.json`.

    Args:
        path: the `.bin` file.
        verify: read all bytes once and compare their hash. Sizes are always compared. With several
            processes on one machine, one that verifies is enough.

    Raises:
        DataError: missing, truncated, changed or foreign; says which file and how to make it again.
    """
    idx_path, json_path = path.with_suffix(".idx"), path.with_suffix(".json")
    sidecar = _read_sidecar(path, json_path)
    again = (
        f". Delete {path}, {idx_path.name} and {json_path.name} (or their folder) to have them "
        f"made again from: {sidecar.source}"
    )
    item = np.dtype(sidecar.dtype).itemsize
    checks = (
        (path, sidecar.tokens * item, sidecar.bin_sha256),
        (idx_path, sidecar.documents * 8, sidecar.idx_sha256),
    )
    for file, size_bytes, sha256 in checks:
        if not file.is_file():
            raise DataError(f"{file} is missing{again}")
        if file.stat().st_size != size_bytes:
            raise DataError(
                f"{file} has {file.stat().st_size} bytes, but {json_path.name} says {size_bytes}: "
                f"truncated or of another run{again}"
            )
        if verify and sha256_file(file) != sha256:
            raise DataError(
                f"{file} is corrupt: its SHA-256 is not that of {json_path.name}{again}"
            )
    ids = np.memmap(path, dtype=np.dtype(sidecar.dtype).newbyteorder("<"), mode="r")
    starts = np.memmap(idx_path, dtype="<i8", mode="r")
    digest = hashlib.sha256((sidecar.bin_sha256 + sidecar.idx_sha256).encode()).hexdigest()
    return TokenFile(path, ids, starts, sidecar.vocab_size, sidecar.eos_id, digest)


def open_bare_tokens(
    path: Path, *, dtype: str, vocab_size: int, eos_id: int | None = None
) -> TokenFile:
    """Open a `.bin` of bare ids that another program wrote, without `.idx` and `.json`.

    Reads the file once: documents end after each `eos_id` (None: the file is one document).

    Raises:
        DataError: unknown dtype, a size that is not whole ids, or an id outside the vocabulary.
    """
    if dtype not in TOKEN_DTYPES:
        raise DataError(f"data.token_dtype: {dtype!r} is not one of {', '.join(TOKEN_DTYPES)}")
    item = np.dtype(dtype).itemsize
    size_bytes = path.stat().st_size
    if not size_bytes or size_bytes % item:
        raise DataError(
            f"{path} has {size_bytes} bytes, not a whole number of {dtype} ids: truncated, or "
            "data.token_dtype is wrong"
        )
    ids = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    starts = [np.zeros(1, dtype=np.int64)]
    for begin in range(0, ids.size, _SCAN_TOKENS):
        block = ids[begin : begin + _SCAN_TOKENS]
        if int(block.max()) >= vocab_size:
            at = begin + int(block.argmax())
            raise DataError(
                f"{path}: id {block.max()} at token {at}, but data.vocab_size is {vocab_size}: "
                "corrupt, or data.vocab_size or data.token_dtype is wrong"
            )
        if eos_id is not None:
            starts.append(np.flatnonzero(block == eos_id) + begin + 1)
    offsets = np.concatenate(starts)
    digest = hashlib.sha256(f"{sha256_file(path)}|{dtype}|{eos_id}".encode()).hexdigest()
    return TokenFile(path, ids, offsets[offsets < ids.size], vocab_size, eos_id, digest)


def _read_sidecar(path: Path, json_path: Path) -> Sidecar:
    if not json_path.is_file():
        raise DataError(
            f"{path} has no {json_path.name} beside it. If another program wrote bare ids, set "
            "data.token_dtype, data.vocab_size and data.eos_id; else make the file again"
        )
    try:
        sidecar = Sidecar(**json.loads(json_path.read_text(encoding="utf-8")))
        _check_types(sidecar)
        known = sidecar.format == FORMAT and sidecar.dtype in TOKEN_DTYPES
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{json_path} is corrupt ({error}): delete {path} and make it again"
        ) from error
    if not known:
        raise DataError(
            f"{json_path}: format {sidecar.format} with dtype {sidecar.dtype!r}; this version "
            f"reads format {FORMAT} with {' or '.join(TOKEN_DTYPES)}. Make the file again"
        )
    return sidecar


def _check_types(sidecar: Sidecar) -> None:
    """JSON may hold anything: TypeError where a count or a hash is none."""
    for name in ("tokens", "documents", "vocab_size"):
        value = getattr(sidecar, name)
        if type(value) is not int or value < 0:
            raise TypeError(f"{name} is {value!r}, not a count")
    for name in ("bin_sha256", "idx_sha256"):
        if not isinstance(getattr(sidecar, name), str):
            raise TypeError(f"{name} is {getattr(sidecar, name)!r}, not a hash")
    if sidecar.eos_id is not None and type(sidecar.eos_id) is not int:
        raise TypeError(f"eos_id is {sidecar.eos_id!r}, not an id")
