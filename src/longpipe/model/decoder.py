"""One decoder layer: an attention unit and an MLP unit, over one segment.

Shapes: B rows, T tokens of the segment, E hidden size.
"""

import torch
from torch import Tensor, nn

from longpipe.model.attention import KVStore, SegmentView, attend
from longpipe.model.config import DecoderConfig
from longpipe.model.functions import norm_project, project_add, swiglu_project_add
from longpipe.model.kernels import kernel_for
from longpipe.model.linear import Build, Linear, WeightQueue
from longpipe.model.norm import RMSNorm


class Attention(nn.Module):
    """Parameters of the four projections, named as Hugging Face names them."""

    def __init__(self, config: DecoderConfig, build: Build) -> None:
        super().__init__()
        hidden = config.hidden
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Linear(hidden, inner, config.qkv_bias, build)
        self.k_proj = Linear(hidden, kv_inner, config.qkv_bias, build)
        self.v_proj = Linear(hidden, kv_inner, config.qkv_bias, build)
        self.o_proj = Linear(inner, hidden, config.o_bias, build)
        self.q_norm = RMSNorm(config.head_dim, config.rms_eps, build) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_eps, build) if config.qk_norm else None


class Mlp(nn.Module):
    """Parameters of the gated MLP."""

    def __init__(self, config: DecoderConfig, build: Build) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden, config.intermediate, config.mlp_bias, build)
        self.up_proj = Linear(config.hidden, config.intermediate, config.mlp_bias, build)
        self.down_proj = Linear(config.intermediate, config.hidden, config.mlp_bias, build)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals; weight gradients go through `queue`."""

    def __init__(self, config: DecoderConfig, queue: WeightQueue, build: Build) -> None:
        super().__init__()
        self.self_attn = Attention(config, build)
        self.mlp = Mlp(config, build)
        self.input_layernorm = RMSNorm(config.hidden, config.rms_eps, build)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.rms_eps, build)
        self._queue = queue
        self._head_dim = config.head_dim

    def forward(self, x_BTE: Tensor, view: SegmentView, store: KVStore) -> Tensor:
        """The layer over one segment; `store` holds this layer's keys and values."""
        return self.mlp_unit(self.attention_unit(x_BTE, view, store))

    def attention_unit(self, x_BTE: Tensor, view: SegmentView, store: KVStore) -> Tensor:
        """x + attention(norm(x))."""
        attn = self.self_attn
        projections = (attn.q_proj, attn.k_proj, attn.v_proj)
        q, k, v = (
            torch.unflatten(y, -1, (-1, self._head_dim))
            for y in norm_project(x_BTE, self.input_layernorm, projections, self._queue)
        )
        if attn.q_norm is not None and attn.k_norm is not None:
            q, k = attn.q_norm(q), attn.k_norm(k)
        out = attend(q, k, v, view, store, kernel_for(q))
        return project_add(out, x_BTE, attn.o_proj, self._queue)

    def mlp_unit(self, x_BTE: Tensor) -> Tensor:
        """x + down(silu(gate(norm(x))) * up(norm(x)))."""
        mlp = self.mlp
        gate, up = norm_project(
            x_BTE, self.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), self._queue
        )
        return swiglu_project_add(gate, up, x_BTE, mlp.down_proj, self._queue)
