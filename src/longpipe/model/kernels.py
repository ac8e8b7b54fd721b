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
from itertools import accumulate
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
    own, past = _split(inputs)
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    for q, k, v in own:
        out, lse = _FLASH_CPU(q, k, v, 0.0, True, scale=inputs.scale)
        if past is not None and not outs:
            out, lse = _merge(out, lse, *_FLASH_CPU(q, *past, 0.0, False, scale=inputs.scale))
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
    own, past = _split(inputs)
    grads: list[list[Tensor]] = []
    dk_past = dv_past = None
    douts, outs = (
        _by_document(x.transpose(1, 2), inputs.lengths, 2) for x in (dout_BTHD, out_BTHD)
    )
    for (q, k, v), dout, out, own_lse in zip(own, douts, outs, lse, strict=True):
        tail = (out, own_lse, 0.0)
        dq, dk, dv = _FLASH_CPU_BACKWARD(dout, q, k, v, *tail, True, scale=inputs.scale)
        if past is not None and not grads:
            dq_past, dk_past, dv_past = _FLASH_CPU_BACKWARD(
                dout, q, *past, *tail, False, scale=inputs.scale
            )
            dq.add_(dq_past)
            dk_past, dv_past = dk_past.transpose(1, 2), dv_past.transpose(1, 2)
        grads.append([g.transpose(1, 2) for g in (dq, dk, dv)])
    dq, dk, dv = (_join(list(parts)) for parts in zip(*grads, strict=True))
    return Grads(dq, dk, dv, dk_past, dv_past)


def _split(
    inputs: Inputs,
) -> tuple[list[tuple[Tensor, Tensor, Tensor]], tuple[Tensor, Tensor] | None]:
    """Query, own keys and values of each document, and the prefix's keys and values.

    Heads stand before tokens, as the CPU kernel wants them. The prefix is the first document's.
    """
    prefix, lengths = inputs.prefix, inputs.lengths
    q, k, v = (x.transpose(1, 2) for x in inputs[:3])
    if prefix == 0 and len(lengths) == 1:
        return [(q, k, v)], None
    k_past, *ks = _by_document(k, (prefix, *lengths), 2)
    v_past, *vs = _by_document(v, (prefix, *lengths), 2)
    own = list(zip(_by_document(q, lengths, 2), ks, vs, strict=True))
    return own, (k_past, v_past) if prefix else None


def _by_document(x: Tensor, lengths: Lengths, dim: int = 1) -> tuple[Tensor, ...]:
    return torch.split(x, list(lengths), dim)


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
    offsets = _offsets(inputs)
    outs, states = [], []
    for row in zip(*inputs[:3], strict=True):
        out, *state, _ = _FLASH_CUDA(*row, *offsets, 0.0, True, False, scale=inputs.scale)
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
        offsets = _offsets(inputs)
        rows = []
        for row, tensors in enumerate(zip(dout_BTHD, *inputs[:3], out_BTHD, strict=True)):
            row_lse, seed, offset = lse[3 * row : 3 * row + 3]
            packed = (row_lse, *offsets, 0.0, True, seed, offset)
            rows.append(_FLASH_CUDA_BACKWARD(*tensors, *packed, scale=inputs.scale))
        dq, dk, dv = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return _apart(dq, dk, dv, inputs.prefix)


def _apart(dq_BTHD: Tensor, dk_BKGD: Tensor, dv_BKGD: Tensor, prefix: int) -> Grads:
    """Separates the prefix; copies, because store and weight queue outlive the whole tensors."""
    if prefix == 0:
        return Grads(dq_BTHD, dk_BKGD, dv_BKGD, None, None)
    own, past = (
        [x[:, cut].clone() for x in (dk_BKGD, dv_BKGD)]
        for cut in (slice(prefix, None), slice(prefix))
    )
    return Grads(dq_BTHD, *own, *past)


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
    return _apart(dq, dk, dv, inputs.prefix)


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
