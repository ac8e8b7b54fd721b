"""From the [model] and [data] sections to the decoder's shape, before any text is tokenised."""

from pathlib import Path

from longpipe.data import ByteTokenizer, find_paths, load_tokenizer, open_tokens
from longpipe.errors import ConfigError
from longpipe.model.config import DecoderConfig
from longpipe.model.hf import read_config
from longpipe.model.rope_config import Rope
from longpipe.train.config import Config, DataConfig, ModelConfig

_MLP_MULTIPLE = 64


def decoder_config(config: Config) -> DecoderConfig:
    """The model that a config describes.

    Raises:
        ConfigError: the data's vocabulary does not fit into the model's, or the sequences are
            longer than the positions of a Hugging Face config.
    """
    model, data = config.model, config.data
    words = data_vocabulary(data)
    shape = read_config(model.hf_config) if model.hf_config else _written_out(model, data, words)
    if shape.vocab < words:
        key = "hf_config's vocab_size" if model.hf_config else "model.vocab_size"
        raise ConfigError(
            f"{key} is {shape.vocab}, but the data has ids up to {words - 1}: use the tokenizer "
            f"that belongs to the model (data.tokenizer), or a model of {words} or more"
        )
    if data.sequence_length > shape.max_positions:
        raise ConfigError(
            f"data.sequence_length = {data.sequence_length}, but {model.hf_config} has "
            f"max_position_embeddings = {shape.max_positions}: use shorter sequences, or write a "
            "longer maximum (and a rope scaling, such as yarn) into the model's config"
        )
    return shape


def data_vocabulary(data: DataConfig) -> int:
    """Ids of the data are smaller than this; reads no text and no tokens."""
    if data.kind == "tokens":
        if data.token_dtype is not None:
            assert data.vocab_size is not None, "the config checks it for bare token files"
            return data.vocab_size
        files = (open_tokens(path, verify=False) for path in find_paths(data.paths))
        return max(file.vocab_size for file in files)
    if data.tokenizer == "bytes":
        return ByteTokenizer().vocab_size
    if data.tokenizer == "train":
        assert data.vocab_size is not None, "the config checks it for a trained tokenizer"
        return data.vocab_size  # a small text may give fewer; the rows left over do no harm
    return load_tokenizer(Path(data.tokenizer), data.eos_token).vocab_size


def _written_out(model: ModelConfig, data: DataConfig, words: int) -> DecoderConfig:
    """A Llama, or a Qwen where norms or biases of the queries and keys are asked for."""
    hidden, layers, heads = model.hidden_size, model.layers, model.heads
    if not (hidden and layers and heads):
        raise ConfigError("[model] needs hf_config, or hidden_size, layers and heads")
    if model.qk_norm and model.qkv_bias:
        raise ConfigError(
            "model.qk_norm and model.qkv_bias are both set: no supported model has both (Qwen3 "
            "has the norms, Qwen2 the biases); set one of them"
        )
    family = "qwen3" if model.qk_norm else "qwen2" if model.qkv_bias else "llama"
    return DecoderConfig(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=model.kv_heads or heads,
        head_dim=model.head_dim or hidden // heads,
        intermediate=model.intermediate_size or _mlp_width(hidden),
        vocab=model.vocab_size or words,
        rms_eps=model.norm_eps,
        rope=Rope(theta=model.rope_theta),
        max_positions=data.sequence_length,
        tied=model.tie_embeddings,
        qkv_bias=model.qkv_bias,
        qk_norm=model.qk_norm,
        model_type=family,
    )


def _mlp_width(hidden: int) -> int:
    return -(-hidden * 8 // (3 * _MLP_MULTIPLE)) * _MLP_MULTIPLE
