"""Rotary position embedding, half-split as in Llama checkpoints.

Shapes: B rows, T tokens, H heads, D head size.
"""

import math

import torch
from torch import Tensor

from longpipe.errors import ConfigError
from longpipe.model.rope_config import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Radians per position of each of the `head_dim / 2` planes, float64."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    plain = rope.theta**-exponents
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(plain, rope)
    if rope.kind == "yarn":
        return _yarn(plain, rope, head_dim)
    return plain


def _llama3(plain: Tensor, rope: Rope) -> Tensor:
    """Long waves are slowed down by `factor`, short ones kept, those between interpolated."""
    turns = rope.original_length * plain / (2 * math.pi)
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = kept.clamp(0, 1)
    return plain * (kept + (1 - kept) / rope.factor)


def _yarn(plain: Tensor, rope: Rope, head_dim: int) -> Tensor:
    """NTK by parts (arXiv:2309.00071, sec. 3.2)."""

    def plane_of(turns: float) -> float:
        span = math.log(rope.original_length / (turns * 2 * math.pi))
        return head_dim * span / (2 * math.log(rope.theta))

    low, high = plane_of(rope.beta_fast), plane_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    planes = torch.arange(head_dim // 2, dtype=torch.float64)
    slowed = ((planes - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain * (1 - slowed + slowed / rope.factor)


class RotaryTable:
    """Cosine and signed sine of every position, made once per device and precision.

    The angles are computed in float64. Half precision models keep float32 tables.
    """

    def __init__(self, rope: Rope, head_dim: int, max_positions: int) -> None:
        self._rope = rope
        self._head_dim = head_dim
        self._max_positions = max_positions
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def upto(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(cosine, sine), each [>= length, 1, D], for tensors like `like`."""
        if self._rope.kind == "dynamic" and length > self._max_positions:
            raise ConfigError(
                f"rope: dynamic scaling beyond {self._max_positions} positions depends on the "
                f"length of each batch (got {length}); use yarn or linear scaling for training"
            )
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        key = (like.device, dtype)
        if key not in self._tables or self._tables[key][0].shape[0] < length:
            cosine, sine = self._angles(length)
            self._tables[key] = (cosine.to(like.device, dtype), sine.to(like.device, dtype))
        return self._tables[key]

    def _angles(self, length: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(length, dtype=torch.float64)
        angles = torch.outer(positions, inverse_frequencies(self._rope, self._head_dim))
        cosine = torch.cos(angles).mul_(self._rope.attention_factor)
        sine = torch.sin(angles).mul_(self._rope.attention_factor)
        # The sign of the half-split rotation lives in the table: y = x * cos + swap(x) * sin.
        return (
            torch.cat((cosine, cosine), dim=-1).unsqueeze(1),
            torch.cat((-sine, sine), dim=-1).unsqueeze(1),
        )


def rotate(x_BTHD: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`x` turned by its positions; a new tensor of the same type."""
    out = x_BTHD * cosine
    return out.addcmul_(_swap_halves(x_BTHD), sine).to(x_BTHD.dtype)


def rotate_back(dx_BTHD: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Gradient of `rotate`: the transposed turn."""
    out = dx_BTHD * cosine
    return out.addcmul_(_swap_halves(dx_BTHD), sine, value=-1).to(dx_BTHD.dtype)


def _swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)
