"""What a decoder looks like: sizes, biases, norms and rotary embedding, from a `config.json`.

The families whose mathematics this package implements are Llama, Mistral (without a sliding
window), Qwen2 and Qwen3. Anything else that would change the numbers is refused, never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longpipe.errors import ConfigError
from longpipe.model.rope_config import Rope, read_rope, rope_to_hf


@dataclass(frozen=True, slots=True)
class _Family:
    """What a model type fixes, and its defaults; `None` for a bias: the config decides."""

    architecture: str
    qkv_bias: bool | None
    o_bias: bool | None
    mlp_bias: bool | None
    qk_norm: bool
    max_positions: int
    kv_heads: int | None = None
    head_dim: int | None = None


_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family("LlamaForCausalLM", None, None, None, False, 2048),
    "mistral": _Family("MistralForCausalLM", False, False, False, False, 131072, kv_heads=8),
    "qwen2": _Family("Qwen2ForCausalLM", True, False, False, False, 32768, kv_heads=32),
    "qwen3": _Family("Qwen3ForCausalLM", None, None, False, True, 32768, 32, head_dim=128),
}

# key in config.json -> (values that change nothing, what the feature would need)
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "the MLP is SwiGLU"),
    "num_experts": ((None, 0), "mixture of experts is not implemented"),
    "num_local_experts": ((None, 0, 1), "mixture of experts is not implemented"),
    "partial_rotary_factor": ((None, 1, 1.0), "the rotary embedding turns the whole head"),
    "attention_dropout": ((None, 0, 0.0), "attention runs without dropout; set it to 0"),
    "final_logit_softcapping": ((None,), "logits are not capped"),
    "attn_logit_softcapping": ((None,), "attention scores are not capped"),
    "quantization_config": ((None,), "weights must be plain floating point"),
}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a decoder-only transformer; field names follow Hugging Face's, shortened.

    >>> c = DecoderConfig(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16,
    ...                   intermediate=128, vocab=256)
    >>> DecoderConfig.from_hf(c.to_hf()) == c
    True
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rms_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    max_positions: int = 4096
    tied: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    init_std: float = 0.02
    model_type: str = "llama"

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate", "vocab"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"model config: {name} must be a positive integer, got {value!r}")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model config: {self.heads} query heads do not share {self.kv_heads} key-value "
                f"heads evenly; make heads a multiple of kv_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model config: head_dim must be even, got {self.head_dim}")
        self._check_family()

    def _check_family(self) -> None:
        family = _family(self.model_type)
        for name in ("qkv_bias", "o_bias", "mlp_bias", "qk_norm"):
            fixed, value = getattr(family, name), getattr(self, name)
            if fixed is not None and fixed != value:
                raise ConfigError(
                    f"model config: {self.model_type} has {name}={fixed}, not {value}; "
                    f"choose another model_type of {sorted(_FAMILIES)}"
                )
        if family.o_bias is None and self.qkv_bias != self.o_bias:
            raise ConfigError(
                f"model config: {self.model_type} has one attention_bias for all four "
                f"projections; set qkv_bias and o_bias alike, or use model_type qwen2"
            )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "DecoderConfig":
        """The config that a Hugging Face `config.json` (as a dict) describes.

        Raises ConfigError for an unknown model type, a missing size, or a feature that would
        change the mathematics.
        """
        model_type = raw.get("model_type")
        family = _family(model_type)
        _refuse_unsupported(raw, str(model_type))
        heads = _size(raw, "num_attention_heads")
        hidden = _size(raw, "hidden_size")
        head_dim = raw.get("head_dim") or family.head_dim
        if head_dim is None:
            if hidden % heads:
                raise ConfigError(f"config.json: hidden_size {hidden} / {heads} heads is not whole")
            head_dim = hidden // heads
        attention_bias = bool(raw.get("attention_bias", False))
        max_positions = int(raw.get("max_position_embeddings") or family.max_positions)
        return cls(
            hidden=hidden,
            layers=_size(raw, "num_hidden_layers"),
            heads=heads,
            kv_heads=raw.get("num_key_value_heads") or family.kv_heads or heads,
            head_dim=head_dim,
            intermediate=_size(raw, "intermediate_size"),
            vocab=_size(raw, "vocab_size"),
            rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope=read_rope(raw, max_positions),
            max_positions=max_positions,
            tied=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=_pick(family.qkv_bias, attention_bias),
            o_bias=_pick(family.o_bias, attention_bias),
            mlp_bias=_pick(family.mlp_bias, bool(raw.get("mlp_bias", False))),
            qk_norm=family.qk_norm,
            init_std=float(raw.get("initializer_range", 0.02)),
            model_type=str(model_type),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model; transformers 4 and 5 both read it."""
        raw: dict[str, Any] = {
            "architectures": [_FAMILIES[self.model_type].architecture],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_eps,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tied,
            "initializer_range": self.init_std,
            **rope_to_hf(self.rope),
        }
        family = _FAMILIES[self.model_type]
        if family.qkv_bias is None:
            raw["attention_bias"] = self.qkv_bias
        if family.mlp_bias is None:
            raw["mlp_bias"] = self.mlp_bias
        if self.model_type == "mistral":
            raw["sliding_window"] = None
        return raw


def _family(model_type: object) -> _Family:
    family = _FAMILIES.get(str(model_type))
    if family is None:
        raise ConfigError(
            f"config.json: model_type {model_type!r} is not supported; "
            f"supported are {', '.join(sorted(_FAMILIES))}"
        )
    return family


def _pick(fixed: bool | None, configured: bool) -> bool:
    return configured if fixed is None else fixed


def _size(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int):
        raise ConfigError(f"config.json: {key} must be an integer, got {value!r}")
    return value


def _refuse_unsupported(raw: Mapping[str, Any], model_type: str) -> None:
    for key, (harmless, why) in _REFUSED.items():
        if key in raw and raw[key] not in harmless:
            raise ConfigError(f"config.json: {key}={raw[key]!r} is not supported: {why}")
    if _uses_window(raw, model_type):
        raise ConfigError(
            f"config.json: sliding_window={raw.get('sliding_window', 4096)} is not supported: "
            f"attention is full and causal. If all your sequences are shorter than the window, "
            f"set sliding_window to null"
        )


def _uses_window(raw: Mapping[str, Any], model_type: str) -> bool:
    """Whether some layer of the model attends only to a window of the past."""
    if "layer_types" in raw and raw["layer_types"] is not None:
        return any(kind != "full_attention" for kind in raw["layer_types"])
    if model_type == "mistral":
        # Absent means transformers' default, a window of 4096.
        return raw.get("sliding_window", 4096) is not None
    if not raw.get("use_sliding_window", False):
        return False
    return bool(raw.get("max_window_layers", 28) < _size(raw, "num_hidden_layers"))
