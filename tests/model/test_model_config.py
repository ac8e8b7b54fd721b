"""`config.json` in and out: every family, both rope spellings, and what is refused."""

from dataclasses import replace

import pytest
import torch
from segment_runs import BASE, CONFIGS

from longpipe.errors import ConfigError
from longpipe.model import DecoderConfig, Rope, hf

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
}


def read(**changes):
    return DecoderConfig.from_hf({**LLAMA, **changes})


def test_defaults_are_those_of_transformers():
    config = read()
    assert (config.kv_heads, config.head_dim, config.rms_eps) == (4, 16, 1e-6)
    assert config.rope == Rope(theta=10000.0)
    assert not config.tied


@pytest.mark.parametrize("name", CONFIGS)
def test_round_trip(name):
    assert DecoderConfig.from_hf(CONFIGS[name].to_hf()) == CONFIGS[name]


def test_head_dim_may_differ_from_the_quotient():
    assert read(head_dim=32).head_dim == 32
    assert read(model_type="qwen3", num_key_value_heads=2).head_dim == 128


def test_old_and_new_spelling_of_rope():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    }
    old = read(rope_theta=5e5, rope_scaling=scaling)
    new = read(rope_parameters={"rope_theta": 5e5, **scaling})
    oldest = read(rope_theta=5e5, rope_scaling={**scaling, "type": "llama3"})
    assert old.rope == new.rope == oldest.rope
    assert old.rope == Rope(5e5, "llama3", 8.0, 2048)


def test_yarn_works_out_its_factors():
    yarn = read(rope_scaling={"type": "yarn", "original_max_position_embeddings": 2048}).rope
    assert yarn.factor == 4.0
    assert yarn.attention_factor == pytest.approx(1.1386, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported; supported are llama"),
        ({"hidden_size": None}, "hidden_size must be an integer"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' .*SwiGLU"),
        ({"num_experts": 8}, "mixture of experts"),
        ({"attention_dropout": 0.1}, "set it to 0"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "'longrope' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "needs a factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ per layer"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "mistral"}, "sliding_window=4096 .*set sliding_window to null"),
        ({"model_type": "mistral", "sliding_window": 128}, "sliding_window=128"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
            "sliding_window",
        ),
        ({"num_key_value_heads": 3}, "do not share 3 key-value heads evenly"),
        ({"head_dim": 15}, "head_dim must be even"),
        ({"num_attention_heads": 5}, "is not whole"),
    ],
    ids=str,
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_windows_that_are_not_used_are_fine():
    read(model_type="mistral", sliding_window=None, num_key_value_heads=2)
    qwen2 = {"model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 4096}
    read(**qwen2, use_sliding_window=False)
    read(**qwen2, use_sliding_window=True, max_window_layers=2)


def test_family_and_features_must_agree():
    with pytest.raises(ConfigError, match="qwen2 has qkv_bias=True, not False"):
        replace(BASE, model_type="qwen2")
    with pytest.raises(ConfigError, match="one attention_bias for all four"):
        replace(BASE, qkv_bias=True)


def test_files(tmp_path):
    hf.write_config(BASE, tmp_path, torch.bfloat16)
    assert hf.read_config(tmp_path) == BASE
    assert hf.read_config(tmp_path / "config.json") == BASE
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        hf.read_config(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        hf.read_config(tmp_path / "absent.json")
