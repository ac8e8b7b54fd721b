"""What stands beside a checkpoint's tensors: a JSON manifest that vouches for every file."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from longpipe.data.files import sha256_file
from longpipe.errors import CheckpointError

FORMAT = 2
NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands, apart from its tensors; plain values, kept as JSON."""

    step: int
    """Optimizer steps done."""
    loader: Mapping[str, Any]
    """`Loader.state()`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """`Config.plain()` of the run that wrote the checkpoint."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the checkpoint."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of the checkpoint."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's contents, by tensor name and file name."""

    state: TrainState
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, FileInfo]


def describe_tensors(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """Shape and dtype of each."""
    return {
        name: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, FileInfo]:
    """Size and hash of each."""
    return {
        name: FileInfo((folder / name).stat().st_size, sha256_file(folder / name)) for name in names
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write and sync `manifest.json`; it carries its own hash."""
    content = {"format": FORMAT, **asdict(manifest)}
    content["sha256"] = _self_hash(content)
    with (folder / NAME).open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: format {content['format']}, this version of longpipe reads {FORMAT}"
            )
        if content.pop("sha256") != _self_hash(content):
            raise CheckpointError(f"{path} is corrupt: its contents do not match its own hash")
        return Manifest(
            TrainState(**content["state"]),
            {
                name: TensorInfo(tuple(info["shape"]), info["dtype"])
                for name, info in content["tensors"].items()
            },
            {name: FileInfo(**info) for name, info in content["files"].items()},
        )
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt: {type(error).__name__}: {error}") from error


def check_files(folder: Path, files: Mapping[str, FileInfo]) -> None:
    """Compare sizes and hashes.

    Raises:
        CheckpointError: names the first file that is missing, truncated or changed.
    """
    for name, info in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        size_bytes = path.stat().st_size
        if size_bytes != info.size_bytes:
            raise CheckpointError(
                f"{path} is truncated or overwritten: {size_bytes} bytes instead of "
                f"{info.size_bytes}"
            )
        if sha256_file(path) != info.sha256:
            raise CheckpointError(f"{path} is corrupt: its bytes do not match their SHA-256")


def _self_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
