"""Causal attention of a segment over itself and the earlier segments, one function per device.

Every kernel sees the same thing: queries of one segment, keys and values of the same tokens with,
before them, those of the earlier part of the first document. The last query sees all keys of its
document (the causal mask is aligned to the lower right corner). No mask is ever made at full
length, and documents cost what they cost alone.

Shapes: B rows, T tokens of the segment, P tokens of the prefix, H query heads, G key-value heads
(grouped-query attention, arXiv:2305.13245), D head size; LSE is the log of the sum of
exponentials of a query's scores, in the kernel's own layout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from longpipe.model import blockwise

Lengths = tuple[int, ...]
Lse = tuple[Tensor, ...]


class Grads(NamedTuple):
    """Gradients of the queries, of the segment's own keys and values, and of the prefix's."""

    dq_BTHD: Tensor
    dk_BTGD: Tensor
    dv_BTGD: Tensor
    dk_BPGD: Tensor | None
    dv_BPGD: Tensor | None


class Inputs(NamedTuple):
    """What attention reads. `k` and `v` hold the prefix and the segment, P + T tokens."""

    q_BTHD: Tensor
    k_BKGD: Tensor
    v_BKGD: Tensor
    lengths: Lengths

    @property
    def prefix(self) -> int:
        """Keys before the segment."""
        return self.k_BKGD.shape[1] - self.q_BTHD.shape[1]

    @property
    def scale(self) -> float:
        """Of the scores."""
        return float(self.q_BTHD.shape[-1] ** -0.5)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A forward giving (output [B, T, H, D], LSE) and its backward."""

    forward: Callable[[Inputs], tuple[Tensor, Lse]]
    backward: Callable[[Tensor, Inputs, Tensor, Lse], Grads]


def _cpu_forward(inputs: Inputs) -> tuple[Tensor, Lse]:
    outs, lses = [], []
    for piece in _split(inputs):
        out, lse = _FLASH_CPU(piece.q, piece.k, piece.v, 0.0, True, scale=inputs.scale)
        if piece.k_past is not None:
            past, past_lse = _FLASH_CPU(
                piece.q, piece.k_past, piece.v_past, 0.0, False, scale=inputs.scale
            )
            out, lse = _merge(out, lse, past, past_lse)
        outs.append(out.transpose(1, 2))
        lses.append(lse)
    return _join(outs), tuple(lses)


def _merge(out: Tensor, lse: Tensor, past: Tensor, past_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from that over each (arXiv:2112.05682, sec. 2)."""
    more = past_lse - lse
    share = torch.sigmoid(more).unsqueeze(-1)
    merged_lse = lse + torch.nn.functional.softplus(more, threshold=100.0)
    if out.dtype == share.dtype:
        return out.lerp_(past, share), merged_lse
    return torch.lerp(out.to(share.dtype), past.to(share.dtype), share).to(out.dtype), merged_lse


def _cpu_backward(dout_BTHD: Tensor, inputs: Inputs, out_BTHD: Tensor, lse: Lse) -> Grads:
    grads = []
    dk_past = dv_past = None
    douts = _by_document(dout_BTHD, inputs.lengths)
    outs = _by_document(out_BTHD, inputs.lengths)
    for piece, dout, out, piece_lse in zip(_split(inputs), douts, outs, lse, strict=True):
        dout, out = dout.transpose(1, 2), out.transpose(1, 2)
        dq, dk, dv = _FLASH_CPU_BACKWARD(
            dout, piece.q, piece.k, piece.v, out, piece_lse, 0.0, True, scale=inputs.scale
        )
        if piece.k_past is not None:
            past = (piece.k_past, piece.v_past)
            dq_past, dk_past, dv_past = _FLASH_CPU_BACKWARD(
                dout, piece.q, *past, out, piece_lse, 0.0, False, scale=inputs.scale
            )
            dq.add_(dq_past)
            dk_past, dv_past = dk_past.transpose(1, 2), dv_past.transpose(1, 2)
        grads.append([g.transpose(1, 2) for g in (dq, dk, dv)])
    dq, dk, dv = (_join(list(parts)) for parts in zip(*grads, strict=True))
    return Grads(dq, dk, dv, dk_past, dv_past)


class _Piece(NamedTuple):
    """One document's tokens in the segment, heads before tokens as the CPU kernel wants them."""

    q: Tensor
    k: Tensor
    v: Tensor
    k_past: Tensor | None
    v_past: Tensor | None


def _split(inputs: Inputs) -> list[_Piece]:
    q, k, v = (x.transpose(1, 2) for x in (inputs.q_BTHD, inputs.k_BKGD, inputs.v_BKGD))
    prefix = inputs.prefix
    pieces = []
    for a, b in pairwise(accumulate(inputs.lengths, initial=0)):
        past = prefix if a == 0 else 0
        pieces.append(
            _Piece(
                q[:, :, a:b],
                k[:, :, prefix + a : prefix + b],
                v[:, :, prefix + a : prefix + b],
                k[:, :, :past] if past else None,
                v[:, :, :past] if past else None,
            )
        )
    return pieces


def _by_document(x: Tensor, lengths: Lengths) -> tuple[Tensor, ...]:
    return torch.split(x, list(lengths), dim=1)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _cuda_forward(inputs: Inputs) -> tuple[Tensor, Lse]:
    """FlashAttention-2 (arXiv:2307.08691): its causal mask is already aligned to the lower right,
    so that prefix and segment are one call."""
    if len(inputs.lengths) == 1:
        t, kt = inputs.q_BTHD.shape[1], inputs.k_BKGD.shape[1]
        out, lse, seed, offset, _ = _FLASH_CUDA(
            *inputs[:3], None, None, t, kt, 0.0, True, False, scale=inputs.scale
        )
        return out, (lse, seed, offset)
    outs, states = [], []
    for q, k, v in zip(*inputs[:3], strict=True):
        cu_q, cu_k, most_q, most_k = _offsets(inputs)
        out, *state, _ = _FLASH_CUDA(
            q, k, v, cu_q, cu_k, most_q, most_k, 0.0, True, False, scale=inputs.scale
        )
        outs.append(out)
        states.extend(state)
    return torch.stack(outs), tuple(states)


def _cuda_backward(dout_BTHD: Tensor, inputs: Inputs, out_BTHD: Tensor, lse: Lse) -> Grads:
    if len(inputs.lengths) == 1:
        t, kt = inputs.q_BTHD.shape[1], inputs.k_BKGD.shape[1]
        sizes = (None, None, t, kt, 0.0, True)
        dq, dk, dv = _FLASH_CUDA_BACKWARD(
            dout_BTHD, *inputs[:3], out_BTHD, lse[0], *sizes, lse[1], lse[2], scale=inputs.scale
        )
    else:
        rows = []
        for row, tensors in enumerate(zip(dout_BTHD, *inputs[:3], out_BTHD, strict=True)):
            row_lse, seed, offset = lse[3 * row : 3 * row + 3]
            packed = (row_lse, *_offsets(inputs), 0.0, True, seed, offset)
            rows.append(_FLASH_CUDA_BACKWARD(*tensors, *packed, scale=inputs.scale))
        dq, dk, dv = (torch.stack(parts) for parts in zip(*rows, strict=True))
    prefix = inputs.prefix
    if prefix == 0:
        return Grads(dq, dk, dv, None, None)
    # The prefix part lives on in the store; a copy, so that it does not hold the whole tensor.
    past = (dk[:, :prefix].clone(), dv[:, :prefix].clone())
    return Grads(dq, dk[:, prefix:], dv[:, prefix:], *past)


def _offsets(inputs: Inputs) -> tuple[Tensor, Tensor, int, int]:
    """Where documents begin among the queries and among the keys, and the longest of each."""
    query_lengths = inputs.lengths
    key_lengths = (query_lengths[0] + inputs.prefix, *query_lengths[1:])
    cu_q, cu_k = (
        torch.tensor([0, *accumulate(n)], dtype=torch.int32).to(inputs.q_BTHD.device)
        for n in (query_lengths, key_lengths)
    )
    return cu_q, cu_k, max(query_lengths), max(key_lengths)


def _blockwise_forward(inputs: Inputs) -> tuple[Tensor, Lse]:
    parts = [blockwise.forward(q, k, v, inputs.scale) for q, k, v in _whole(inputs)]
    return _join([out for out, _ in parts]), tuple(lse for _, lse in parts)


def _blockwise_backward(dout_BTHD: Tensor, inputs: Inputs, out_BTHD: Tensor, lse: Lse) -> Grads:
    douts = _by_document(dout_BTHD, inputs.lengths)
    outs = _by_document(out_BTHD, inputs.lengths)
    grads = [
        blockwise.backward(dout, q, k, v, out, piece_lse, inputs.scale)
        for dout, (q, k, v), out, piece_lse in zip(douts, _whole(inputs), outs, lse, strict=True)
    ]
    dq, dk, dv = (_join(list(parts)) for parts in zip(*grads, strict=True))
    prefix = inputs.prefix
    if prefix == 0:
        return Grads(dq, dk, dv, None, None)
    past = (dk[:, :prefix].clone(), dv[:, :prefix].clone())
    return Grads(dq, dk[:, prefix:], dv[:, prefix:], *past)


def _whole(inputs: Inputs) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values of each document, the prefix belonging to the first."""
    key_lengths = (inputs.prefix + inputs.lengths[0], *inputs.lengths[1:])
    qs = _by_document(inputs.q_BTHD, inputs.lengths)
    ks, vs = (_by_document(x, key_lengths) for x in (inputs.k_BKGD, inputs.v_BKGD))
    return list(zip(qs, ks, vs, strict=True))


_FLASH_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_FLASH_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_FLASH_CUDA = torch.ops.aten._flash_attention_forward.default
_FLASH_CUDA_BACKWARD = torch.ops.aten._flash_attention_backward.default

KERNELS = {
    "cpu": Kernel(_cpu_forward, _cpu_backward),
    "cuda": Kernel(_cuda_forward, _cuda_backward),
    "blockwise": Kernel(_blockwise_forward, _blockwise_backward),
}


def kernel_for(q_BTHD: Tensor) -> Kernel:
    """The fastest kernel for tensors like `q`."""
    if q_BTHD.device.type == "cpu":
        return KERNELS["cpu"]
    half = q_BTHD.dtype in (torch.bfloat16, torch.float16)
    head_dim = q_BTHD.shape[-1]
    if q_BTHD.device.type == "cuda" and half and head_dim % 8 == 0 and head_dim <= 256:
        return KERNELS["cuda"]
    return KERNELS["blockwise"]
