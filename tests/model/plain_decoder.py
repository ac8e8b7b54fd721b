"""The decoder once more, in ten lines of plain autograd per idea: what the real one must equal.

Full sequences, dense masks, no segments, no custom backward. Every row and document is masked out
of the others' sight explicitly.
"""

import torch
from torch import Tensor

from longpipe.model import DecoderConfig, MicroBatch
from longpipe.model.rope import inverse_frequencies


def plain_loss(config: DecoderConfig, weights: dict[str, Tensor], batch: MicroBatch) -> Tensor:
    """Sum of token losses of the whole micro-batch."""
    assert batch.labels is not None
    logits = plain_logits(config, weights, batch)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100, reduction="sum"
    )


def plain_logits(config: DecoderConfig, weights: dict[str, Tensor], batch: MicroBatch) -> Tensor:
    document, position = _documents(batch)
    visible = (document[:, :, None] == document[:, None, :]).tril()
    x = weights["model.embed_tokens.weight"][batch.tokens]
    for layer in range(config.layers):
        name = f"model.layers.{layer}."
        y = _norm(x, weights[f"{name}input_layernorm.weight"], config.rms_eps)
        x = x + _attention(config, weights, f"{name}self_attn.", y, visible, position)
        y = _norm(x, weights[f"{name}post_attention_layernorm.weight"], config.rms_eps)
        gate, up = (_linear(weights, f"{name}mlp.{p}_proj", y) for p in ("gate", "up"))
        x = x + _linear(weights, f"{name}mlp.down_proj", torch.sigmoid(gate) * gate * up)
    x = _norm(x, weights["model.norm.weight"], config.rms_eps)
    return _linear(weights, "model.embed_tokens" if config.tied else "lm_head", x)


def _documents(batch: MicroBatch) -> tuple[Tensor, Tensor]:
    document = torch.zeros_like(batch.tokens)
    position = torch.zeros_like(batch.tokens)
    for row, starts in enumerate(batch.starts):
        for start in starts:
            document[row, start:] += 1
            position[row, start:] = torch.arange(batch.tokens.shape[1] - start)
    return document, position


def _attention(config, weights, name, y, visible, position):
    rows, tokens, _ = y.shape
    shape = (rows, tokens, -1, config.head_dim)
    q, k, v = (_linear(weights, f"{name}{p}_proj", y).view(shape) for p in "qkv")
    if config.qk_norm:
        q = _norm(q, weights[f"{name}q_norm.weight"], config.rms_eps)
        k = _norm(k, weights[f"{name}k_norm.weight"], config.rms_eps)
    q, k = (_rope(config, x, position) for x in (q, k))
    group = config.heads // config.kv_heads
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    score = torch.einsum("bthd,bshd->bhts", q, k) / config.head_dim**0.5
    share = score.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    return _linear(weights, f"{name}o_proj", torch.einsum("bhts,bshd->bthd", share, v).flatten(2))


def _rope(config, x, position):
    angles = position[..., None, None] * inverse_frequencies(config.rope, config.head_dim)
    turn = torch.polar(torch.full_like(angles, config.rope.attention_factor), angles)
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * turn.to(torch.complex(first, second).dtype)
    return torch.cat((turned.real, turned.imag), dim=-1)


def _norm(x, weight, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def _linear(weights, name, x):
    y = x @ weights[f"{name}.weight"].t()
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y
