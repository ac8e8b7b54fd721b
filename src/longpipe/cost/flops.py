"""FLOPs of a decoder's stages, op by op and segment by segment.

Counted are the matrix products of Llama-like layers (grouped-query attention, SwiGLU) and of the
head, two FLOPs for each multiply-add, and of attention exactly the pairs under the causal mask.
Norms, activations, rotary embedding, softmax and the embedding look-up are not counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longpipe.errors import ConfigError
from longpipe.ir import Kind, Segment

# How often a kind runs the products of the linear layers' forward (the head's logits are not kept,
# so the backward for the input makes them again, and R does not), and how many products of
# attention's size (query-key pairs times head size) it runs. Forward: QK', PV. Backward for the
# input: dP, dV, dQ, dK, and QK' once more, since flash kernels do not keep it. W has none.
_LINEAR = {Kind.F: 1, Kind.I: 1, Kind.W: 1, Kind.B: 2, Kind.R: 1}
_HEAD = {Kind.F: 1, Kind.I: 2, Kind.W: 1, Kind.B: 3, Kind.R: 0}
_ATTENTION = {Kind.F: 2, Kind.I: 5, Kind.W: 0, Kind.B: 5, Kind.R: 2}


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes of a decoder that cost FLOPs and bytes; `head_dim` is that of one head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    qk_norm: bool = False

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "DecoderShape":
        """Read a Hugging Face `config.json` as a dict; ConfigError names a missing size."""
        names = {
            "hidden": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "intermediate": "intermediate_size",
            "vocab": "vocab_size",
        }
        for key in names.values():
            if not isinstance(raw.get(key), int):
                raise ConfigError(f"config.json: {key} must be an integer, got {raw.get(key)!r}")
        sizes = {name: raw[key] for name, key in names.items()}
        return cls(
            **sizes,
            kv_heads=raw.get("num_key_value_heads") or sizes["heads"],
            head_dim=raw.get("head_dim") or sizes["hidden"] // sizes["heads"],
            qk_norm=raw.get("model_type") == "qwen3",
        )

    @property
    def query_size(self) -> int:
        """Numbers of one token's query, all heads: also those of its attention output."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Numbers of one token's keys; its values have as many."""
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer."""
        attention = self.hidden * (2 * self.query_size + 2 * self.kv_size)
        return attention + 3 * self.hidden * self.intermediate


@dataclass(frozen=True, slots=True)
class StageShape:
    """A stage: its number of layers, and whether it has the embedding (first), the head (last)."""

    layers: int
    first: bool = False
    last: bool = False


def stage_shapes(layers: Sequence[int]) -> tuple[StageShape, ...]:
    """Stages of a model from the number of layers of each.

    >>> stage_shapes((3, 2))[1]
    StageShape(layers=2, first=False, last=True)
    """
    end = len(layers) - 1
    return tuple(StageShape(count, i == 0, i == end) for i, count in enumerate(layers))


def coefficients(
    shape: DecoderShape,
    stage: StageShape,
    kinds: Iterable[Kind] = (Kind.F, Kind.B),
    *,
    keeps_attention: bool = False,
) -> tuple[int, int]:
    """FLOPs per token and per query-key pair of ops of these kinds on one unit of the stage.

    They are the `linear` and `pair` of equal-cost cuts. Choose the kinds to balance: `(F,)`, or
    `(F, B)` for a whole step, and the stage that is slowest. With `keeps_attention` an R does not
    run attention again.
    """
    weights = stage.layers * shape.layer_weights
    head = stage.last * shape.hidden * shape.vocab
    linear = attention = 0
    for kind in kinds:
        linear += 2 * (_LINEAR[kind] * weights + _HEAD[kind] * head)
        runs = 0 if keeps_attention and kind is Kind.R else _ATTENTION[kind]
        attention += 2 * runs * stage.layers * shape.query_size
    return linear, attention


def causal_pairs(start: int, stop: int) -> int:
    """Query-key pairs of tokens `start` to `stop`, each of which sees itself and all before it.

    >>> causal_pairs(0, 3), causal_pairs(3, 5)
    (6, 9)
    """
    return (stop * (stop + 1) - start * (start + 1)) // 2


def op_flops(
    kind: Kind,
    shape: DecoderShape,
    stage: StageShape,
    segment: Segment,
    *,
    keeps_attention: bool = False,
) -> int:
    """FLOPs of one op for one sequence (one document that fills it); see `coefficients`."""
    linear, pair = coefficients(shape, stage, (kind,), keeps_attention=keeps_attention)
    return linear * segment.tokens + pair * causal_pairs(segment.start, segment.stop)


def training_flops_per_token(shape: DecoderShape, tokens: int) -> float:
    """FLOPs that a token of a sequence of `tokens` needs in training: the numerator of MFU.

    Backward counts as twice the forward, so that work done again (QK' in flash kernels,
    the head's logits) does not count; attention counts only what the causal mask lets through.
    """
    whole = StageShape(shape.layers, first=True, last=True)
    return 3 * op_flops(Kind.F, shape, whole, Segment(0, 0, tokens)) / tokens
