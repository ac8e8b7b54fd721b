"""The rotary embedding's settings, from either spelling of Hugging Face's `config.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longpipe.errors import ConfigError

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
_NEEDS_FACTOR = ("linear", "dynamic", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """Base and scaling of the rotary embedding (RoFormer, arXiv:2104.09864).

    `kind` is Hugging Face's `rope_type`: `default`, `linear` (arXiv:2306.15595), `dynamic` (NTK;
    equal to `default` up to the model's `max_positions`, refused beyond, because there its angles
    would depend on the batch), `llama3`, or `yarn` (arXiv:2309.00071). `original_length` is the
    number of positions before scaling; `attention_factor` multiplies cosine and sine.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(
                f"rope: scaling {self.kind!r} is not supported; supported are {', '.join(_KINDS)}"
            )
        if self.kind in ("llama3", "yarn") and self.original_length < 1:
            raise ConfigError(f"rope: {self.kind} needs original_max_position_embeddings")


def read_rope(raw: Mapping[str, Any], max_positions: int) -> Rope:
    """Rope settings of a config dict: `rope_parameters` (transformers 5) or `rope_scaling`."""
    found = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    if any(isinstance(value, Mapping) for value in found.values()):
        raise ConfigError("config.json: rope settings that differ per layer are not supported")
    if found.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError("config.json: partial_rotary_factor != 1 is not supported")
    kind = str(found.get("rope_type", found.get("type", "default")))
    original = raw.get("original_max_position_embeddings") or found.get(
        "original_max_position_embeddings"
    )
    original_length = int(original or max_positions)
    factor = found.get("factor")
    if factor is None and kind in _NEEDS_FACTOR:
        raise ConfigError(f"config.json: rope scaling {kind!r} needs a factor")
    if factor is None:
        factor = max_positions / original_length if kind == "yarn" else 1.0
    return Rope(
        theta=float(found.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        kind=kind,
        factor=float(factor),
        original_length=original_length if kind in ("llama3", "yarn") else 0,
        low_freq_factor=float(found.get("low_freq_factor", 1.0)),
        high_freq_factor=float(found.get("high_freq_factor", 4.0)),
        beta_fast=float(found.get("beta_fast") or 32.0),
        beta_slow=float(found.get("beta_slow") or 1.0),
        truncate=bool(found.get("truncate", True)),
        attention_factor=_attention_factor(found, float(factor)) if kind == "yarn" else 1.0,
    )


def _attention_factor(found: Mapping[str, Any], factor: float) -> float:
    """Yarn's correction of the softmax temperature (arXiv:2309.00071, eq. 22)."""
    explicit = found.get("attention_factor")
    if explicit is not None:
        return float(explicit)
    mscale, mscale_all = found.get("mscale"), found.get("mscale_all_dim")
    if mscale and mscale_all:
        return _mscale(factor, float(mscale)) / _mscale(factor, float(mscale_all))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def rope_to_hf(rope: Rope) -> dict[str, Any]:
    """Both spellings at once, so that every version of transformers reads the same angles."""
    scaling: dict[str, Any] = {"rope_type": rope.kind}
    if rope.kind != "default":
        scaling["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_length
    if rope.kind == "llama3":
        scaling |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
        }
    if rope.kind == "yarn":
        scaling |= {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "truncate": rope.truncate,
            "attention_factor": rope.attention_factor,
        }
    return {
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.kind == "default" else scaling,
        "rope_parameters": {"rope_theta": rope.theta, **scaling},
    }
