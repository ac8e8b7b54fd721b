"""The forward equals `transformers` on the same weights; files go both ways."""

from dataclasses import replace

import pytest
import torch
from segment_runs import BASE, CONFIGS, gradients, make_batch, make_stages, run_segments

from longpipe.ir import segments_from_lengths
from longpipe.model import Build, DecoderStage, MicroBatch, Rope, hf

transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")

torch.set_num_threads(1)

ROPES = {
    "theta": Rope(theta=500000.0),
    "linear": Rope(kind="linear", factor=4.0),
    "dynamic": Rope(kind="dynamic", factor=2.0),
    "llama3": Rope(kind="llama3", factor=8.0, original_length=64, theta=500.0),
    "yarn": Rope(kind="yarn", factor=4.0, original_length=64, attention_factor=1.1386294361119891),
    "yarn smooth": Rope(kind="yarn", factor=4.0, original_length=64, truncate=False, beta_fast=8.0),
}
MODELS = {
    **{name: c for name, c in CONFIGS.items() if name != "every bias"},
    "all biases": replace(BASE, qkv_bias=True, o_bias=True, mlp_bias=True),
    "mistral": replace(BASE, model_type="mistral"),
    "qwen3 bias": replace(CONFIGS["qwen3"], qkv_bias=True, o_bias=True, tied=True),
    **{name: replace(BASE, rope=rope, max_positions=128) for name, rope in ROPES.items()},
}


def exported(config, directory):
    """Our stage, and the transformers model read from its files."""
    (stage,) = make_stages(config, [range(config.layers)], torch.float32)
    hf.write_config(config, directory, torch.float32)
    hf.save_stage(stage, directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    )
    return stage, model


def segment_logits(stage, tokens, lengths):
    state = stage.open(MicroBatch.whole(tokens, None))
    with torch.no_grad():
        parts = [stage(None, state, segment) for segment in segments_from_lengths(lengths)]
    stage.close(state)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_logits(name, tmp_path):
    stage, model = exported(MODELS[name], tmp_path)
    tokens = make_batch(MODELS[name], 2, 100).tokens
    with torch.no_grad():
        expected = model(tokens).logits
    found = segment_logits(stage, tokens, [40, 35, 25])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "tied", "qwen2", "qwen3"])
def test_gradients(name, tmp_path):
    stage, model = exported(MODELS[name], tmp_path)
    batch = make_batch(MODELS[name], 2, 60)
    run_segments([stage], batch, [20, 25, 15], "late")
    logits = model(batch.tokens).logits
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"
    ).backward()
    found = gradients([stage])
    for parameter_name, parameter in model.named_parameters():
        error = (found[parameter_name] - parameter.grad).norm() / parameter.grad.norm()
        assert error < 1e-4, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_config_of_transformers_is_read_back(name, tmp_path):
    """What transformers saves, in its newest spelling, means the same model."""
    exported(MODELS[name], tmp_path)[1].config.save_pretrained(tmp_path / "again")
    again = hf.read_config(tmp_path / "again")
    assert again == MODELS[name]


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3"])
def test_weights_of_transformers_are_read(name, tmp_path):
    _, model = exported(MODELS[name], tmp_path)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    stage = DecoderStage(MODELS[name], range(2), build=Build(seed=None))
    hf.load_stage(stage, tmp_path / "sharded")
    for parameter_name, parameter in stage.named_parameters():
        assert torch.equal(parameter, model.get_parameter(parameter_name))
