"""Attention in plain tensor operations, block by block: for types and devices without a kernel.

Memory beside the inputs is that of one block of scores, never the full square (the online softmax
of arXiv:1805.02867, arranged as in FlashAttention, arXiv:2205.14135).

Shapes: B rows, T queries, K >= T keys, H = G * R query heads in G groups, D head size.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 512


def forward(q_BTHD: Tensor, k_BKGD: Tensor, v_BKGD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(output [B, T, H, D], LSE [B, G, R, T]); the last query sees all keys."""
    q, k, v = _grouped(q_BTHD, k_BKGD.shape[2]), k_BKGD.transpose(1, 2), v_BKGD.transpose(1, 2)
    outs, lses = [], []
    for rows in _blocks(q.shape[3]):
        out = lse = None
        for keys, score in _scores(q, k, rows, scale):
            block_lse = torch.logsumexp(score, dim=-1)
            block_out = torch.exp(score - block_lse.unsqueeze(-1)) @ v[:, :, None, keys].to(score)
            if out is None or lse is None:
                out, lse = block_out, block_lse
                continue
            # A block in which a query sees nothing has LSE -inf and weighs nothing.
            share = torch.sigmoid(block_lse - lse).unsqueeze(-1)
            out = torch.lerp(out, block_out.nan_to_num(), share)
            lse = torch.logaddexp(lse, block_lse)
        assert out is not None, "a query sees at least itself"
        assert lse is not None, "a query sees at least itself"
        outs.append(out)
        lses.append(lse)
    out_BTHD = torch.cat(outs, dim=3).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return out_BTHD.to(q_BTHD.dtype), torch.cat(lses, dim=3)


def backward(
    dout_BTHD: Tensor,
    q_BTHD: Tensor,
    k_BKGD: Tensor,
    v_BKGD: Tensor,
    out_BTHD: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq [B, T, H, D], dk [B, K, G, D], dv [B, K, G, D])."""
    groups = k_BKGD.shape[2]
    q, k, v = _grouped(q_BTHD, groups), k_BKGD.transpose(1, 2), v_BKGD.transpose(1, 2)
    dout = _grouped(dout_BTHD, groups).to(lse.dtype)
    delta = (dout * _grouped(out_BTHD, groups)).sum(-1, keepdim=True)
    dq = torch.zeros_like(q, dtype=lse.dtype)
    dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (k, v))
    for rows in _blocks(q.shape[3]):
        for keys, score in _scores(q, k, rows, scale):
            p = torch.exp(score - lse[:, :, :, rows, None])
            dout_rows = dout[:, :, :, rows]
            dv[:, :, keys] += (p.transpose(-1, -2) @ dout_rows).sum(2)
            dp = dout_rows @ v[:, :, None, keys].to(p).transpose(-1, -2)
            ds = p.mul_(dp.sub_(delta[:, :, :, rows])).mul_(scale)
            dq[:, :, :, rows] += ds @ k[:, :, None, keys].to(ds)
            dk[:, :, keys] += (ds.transpose(-1, -2) @ q[:, :, :, rows].to(ds)).sum(2)
    return (
        dq.permute(0, 3, 1, 2, 4).flatten(2, 3).to(q_BTHD.dtype),
        dk.transpose(1, 2).to(k_BKGD.dtype),
        dv.transpose(1, 2).to(v_BKGD.dtype),
    )


def _grouped(x_BTHD: Tensor, groups: int) -> Tensor:
    """[B, G, R, T, D]."""
    return torch.unflatten(x_BTHD, 2, (groups, -1)).permute(0, 2, 3, 1, 4)


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, _BLOCK):
        yield slice(start, min(start + _BLOCK, length))


def _scores(
    q_BGRTD: Tensor, k_BGKD: Tensor, rows: slice, scale: float
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of the queries `rows` against each block of keys that one of them sees.

    Computed in at least float32; -inf where a query does not see a key.
    """
    offset = k_BGKD.shape[2] - q_BGRTD.shape[3]
    dtype = torch.promote_types(q_BGRTD.dtype, torch.float32)
    q = q_BGRTD[:, :, :, rows].to(dtype)
    for keys in _blocks(offset + rows.stop):
        score = (q @ k_BGKD[:, :, None, keys].to(dtype).transpose(-1, -2)).mul_(scale)
        if keys.stop > offset + rows.start + 1:
            query_at = torch.arange(rows.start + offset, rows.stop + offset, device=q.device)
            key_at = torch.arange(keys.start, keys.stop, device=q.device)
            score.masked_fill_(key_at > query_at.unsqueeze(1), float("-inf"))
        yield keys, score
