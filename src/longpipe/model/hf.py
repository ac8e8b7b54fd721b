"""Weights and config in and out as Hugging Face directories.

Reading takes only the tensors that a stage holds. Writing goes to a temporary file that replaces
the old one when it is complete and on disk; of a sharded checkpoint the index is written last, and
only it makes the shards a checkpoint.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longpipe.errors import CheckpointError, ConfigError
from longpipe.model.config import DecoderConfig
from longpipe.model.split import EMBEDDING, HEAD, parameter_shapes
from longpipe.model.stage import DecoderStage

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

_SHOWN = 8  # names listed in a message before it says how many more


def read_config(path: str | Path) -> DecoderConfig:
    """Config from a `config.json`, or from the directory that holds one."""
    file = _config_file(path)
    return DecoderConfig.from_hf(_read_json(file, ConfigError))


def write_config(config: DecoderConfig, directory: str | Path, dtype: torch.dtype) -> None:
    """Writes `config.json`; `dtype` is that of the weights beside it."""
    name = str(dtype).removeprefix("torch.")
    _write_json({**config.to_hf(), "dtype": name, "torch_dtype": name}, Path(directory) / CONFIG)


def load_stage(stage: DecoderStage, directory: str | Path) -> None:
    """Fills the stage's parameters from a checkpoint, converting to their type.

    Raises CheckpointError naming every parameter that is missing or of another shape, and every
    name in the checkpoint that no parameter of the model bears.
    """
    directory = Path(directory)
    files = tensor_files(directory)
    parameters = dict(stage.named_parameters())
    source = {name: _stored_name(name, files) for name in parameters}
    unexpected = files.keys() - _known_names(stage.config)
    _refuse(f"{directory}: missing tensors", [n for n, s in source.items() if s not in files])
    _refuse(f"{directory}: tensors that the model does not have", unexpected)
    wanted: dict[Path, list[str]] = {}
    for name in parameters:
        wanted.setdefault(directory / files[source[name]], []).append(name)
    wrong = []
    for file, names in wanted.items():
        with _open(file) as tensors:
            for name in names:
                wrong += _fill(parameters[name], tensors.get_tensor(source[name]), name)
    _refuse(f"{directory}: tensors of the wrong shape", wrong)
    stage.refresh_compute_weights()


def save_stage(stage: DecoderStage, directory: str | Path, shard: int = 0, shards: int = 1) -> None:
    """Writes the stage's parameters as shard number `shard` of `shards`.

    With one shard the checkpoint is complete; with more, `write_index` completes it once all are
    written. A tied head is left out: the first stage writes it as the embedding.
    """
    named = stage.named_parameters()
    keep = stage.first or not stage.config.tied
    save_tensors({n: p for n, p in named if keep or n != EMBEDDING}, directory, shard, shards)


def save_tensors(
    tensors: Mapping[str, Tensor], directory: str | Path, shard: int = 0, shards: int = 1
) -> None:
    """Writes named tensors as one shard of a checkpoint.

    An older sharded checkpoint in the same directory ends with the first shard written: its index
    goes, so that it can never be read with shards of two ages.
    """
    directory = Path(directory)
    plain = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    file = directory / _shard_name(shard, shards)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if shards > 1:
            (directory / INDEX).unlink(missing_ok=True)
        save_file(plain, temporary, metadata={"format": "pt"})
        _publish(temporary, file)
        if shards == 1:  # an index would be read first
            (directory / INDEX).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        _discard(temporary)
        raise CheckpointError(f"{file}: cannot be written: {error}") from error


def write_index(config: DecoderConfig, directory: str | Path, shards: int) -> None:
    """Completes a checkpoint of several shards, reading their headers.

    Raises CheckpointError if the shards do not hold each parameter exactly once.
    """
    directory = Path(directory)
    files: dict[str, str] = {}
    doubled, size_bytes = [], 0
    for shard in range(shards):
        file = directory / _shard_name(shard, shards)
        with _open(file) as tensors:
            size_bytes += _tensor_bytes(file)
            doubled += [name for name in tensors.keys() if name in files]  # noqa: SIM118 (no dict)
            files.update({name: file.name for name in tensors.keys()})  # noqa: SIM118
    _refuse(f"{directory}: tensors in two shards", doubled)
    _refuse(f"{directory}: tensors in no shard", parameter_shapes(config).keys() - files.keys())
    index = {"metadata": {"total_size": size_bytes}, "weight_map": dict(sorted(files.items()))}
    _write_json(index, directory / INDEX)


def tensor_files(directory: Path) -> dict[str, str]:
    """Which file of a checkpoint holds each tensor."""
    if (directory / INDEX).exists():
        files = _read_json(directory / INDEX, CheckpointError).get("weight_map")
        if not isinstance(files, dict):
            raise CheckpointError(f"{directory / INDEX}: has no weight_map")
        return {str(name): str(file) for name, file in files.items()}
    with _open(directory / SINGLE) as tensors:
        return dict.fromkeys(tensors.keys(), SINGLE)


def _stored_name(name: str, files: Mapping[str, str]) -> str:
    """A tied checkpoint may name its one matrix after the head."""
    return HEAD if name == EMBEDDING and name not in files and HEAD in files else name


def _known_names(config: DecoderConfig) -> set[str]:
    """The model's names; tied checkpoints may repeat the head, old ones hold rotary angles."""
    angles = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config.layers)}
    return {*parameter_shapes(config), *angles, *((HEAD,) if config.tied else ())}


def _fill(parameter: Tensor, stored: Tensor, name: str) -> list[str]:
    if stored.shape != parameter.shape:
        return [f"{name} {list(stored.shape)} instead of {list(parameter.shape)}"]
    with torch.no_grad():
        parameter.copy_(stored)
    return []


def _shard_name(shard: int, shards: int) -> str:
    return SINGLE if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"


def _tensor_bytes(file: Path) -> int:
    """Size of a safetensors file without its header, whose length the first 8 bytes say."""
    with file.open("rb") as raw:
        return file.stat().st_size - 8 - int.from_bytes(raw.read(8), "little")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors: {error}") from error


def _refuse(what: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise CheckpointError(f"{what}: {', '.join(listed[:_SHOWN])}{more}")


def _config_file(path: str | Path) -> Path:
    path = Path(path)
    return path / CONFIG if path.is_dir() else path


def _read_json(file: Path, error_type: type[ConfigError] | type[CheckpointError]) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_type(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise error_type(f"{file}: must hold a JSON object")
    return value


def _write_json(value: Mapping[str, Any], file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        _publish(temporary, file)
    except OSError as error:
        _discard(temporary)
        raise CheckpointError(f"{file}: cannot be written: {error}") from error


def _discard(temporary: Path) -> None:
    """Removes what was written of a file; a failure here must not hide the first."""
    with suppress(OSError):
        temporary.unlink()


def _publish(temporary: Path, file: Path) -> None:
    """Puts a complete temporary file in its place, durably."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
