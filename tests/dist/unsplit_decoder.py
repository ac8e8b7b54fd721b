"""The decoder's mathematics once more, plainly: whole sequences, a full mask, torch's autograd.

It shares no code with longpipe.model but the parameters' names and values, and nothing with the
runtime. B rows, S tokens, E hidden, H heads, D head size, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from longpipe.model import DecoderConfig, MicroBatch

IGNORED = -100


def loss_sum(config: DecoderConfig, weights: dict[str, Tensor], batch: MicroBatch) -> Tensor:
    """Sum of the token losses of one micro-batch."""
    documents_BS, positions_BS = _documents(batch)
    x = weights["model.embed_tokens.weight"][batch.tokens]
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if prefix in name}
        x = x + _attention(config, own, x, documents_BS, positions_BS)
        x = x + _mlp(config, own, x)
    x = _norm(config, x, weights["model.norm.weight"])
    head = weights["model.embed_tokens.weight" if config.tied else "lm_head.weight"]
    logits = x @ head.T
    return functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _documents(batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Number of the document of each token, and the token's position in it."""
    rows, length = batch.tokens.shape
    numbers = torch.zeros(rows, length, dtype=torch.int64)
    positions = torch.zeros(rows, length, dtype=torch.int64)
    for row, starts in enumerate(batch.starts):
        for start in starts:
            numbers[row, start:] += 1
            positions[row, start:] = torch.arange(length - start)
    return numbers, positions


def _norm(config: DecoderConfig, x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.rms_eps) * weight


def _linear(own: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ own[f"{name}.weight"].T
    return y + own[f"{name}.bias"] if f"{name}.bias" in own else y


def _rotate(config: DecoderConfig, x_BSHD: Tensor, positions_BS: Tensor) -> Tensor:
    half = config.head_dim // 2
    frequency = config.rope.theta ** (-torch.arange(half, dtype=x_BSHD.dtype) / half)
    angle = positions_BS[:, :, None, None] * frequency
    a, b = x_BSHD[..., :half], x_BSHD[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def _attention(
    config: DecoderConfig, own: dict[str, Tensor], x: Tensor, documents: Tensor, positions: Tensor
) -> Tensor:
    x = _norm(config, x, own["input_layernorm.weight"])
    q, k, v = (
        _linear(own, f"self_attn.{name}_proj", x).unflatten(-1, (-1, config.head_dim))
        for name in "qkv"
    )
    if config.qk_norm:
        q = _norm(config, q, own["self_attn.q_norm.weight"])
        k = _norm(config, k, own["self_attn.k_norm.weight"])
    q, k = _rotate(config, q, positions), _rotate(config, k, positions)
    k, v = (t.repeat_interleave(config.heads // config.kv_heads, 2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * config.head_dim**-0.5
    length = x.shape[1]
    seen = (documents[:, :, None] == documents[:, None]) & torch.ones(length, length).tril().bool()
    shares = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    out = torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(2)
    return _linear(own, "self_attn.o_proj", out)


def _mlp(config: DecoderConfig, own: dict[str, Tensor], x: Tensor) -> Tensor:
    x = _norm(config, x, own["post_attention_layernorm.weight"])
    gate, up = _linear(own, "mlp.gate_proj", x), _linear(own, "mlp.up_proj", x)
    return _linear(own, "mlp.down_proj", functional.silu(gate) * up)
