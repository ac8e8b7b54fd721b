"""bfloat16 products with float32 parameters and gradients."""

import pytest
import torch
from segment_runs import BASE, CONFIGS, gradients, make_batch, make_stages, run_segments

from longpipe.errors import ConfigError, DataError
from longpipe.model import Build, DecoderStage, MicroBatch, Rope, WeightQueue, loss
from longpipe.model.linear import Linear
from longpipe.model.norm import RMSNorm
from longpipe.model.rope import RotaryTable

torch.set_num_threads(1)

MIXED = Build(torch.float32, torch.bfloat16, seed=None)


def mixed_like(exact):
    """A stage with the weights of `exact`, rounded to float32, and bfloat16 products."""
    stage = DecoderStage(exact.config, range(exact.config.layers), build=MIXED)
    stage.load_state_dict(exact.state_dict())
    stage.refresh_compute_weights()
    return stage


@pytest.mark.parametrize("name", ["llama", "every bias", "qwen3", "tied"])
@pytest.mark.parametrize("split_backward", [None, "late"])
def test_close_to_exact(name, split_backward):
    batch = make_batch(CONFIGS[name], 2, 96, [(0, 20), (0,)])
    (exact,) = make_stages(CONFIGS[name], [range(2)])
    mixed = mixed_like(exact)
    expected = run_segments([exact], batch, [96])
    found = run_segments([mixed], batch, [50, 46], split_backward)
    assert found.dtype == torch.float32
    assert abs(found - expected) / expected < 1e-2
    reference = gradients([exact])
    for parameter_name, gradient in gradients([mixed]).items():
        assert gradient.dtype == torch.float32
        error = (gradient - reference[parameter_name]).norm() / reference[parameter_name].norm()
        assert error < 5e-2, parameter_name


def test_weight_gradients_are_not_rounded_to_half():
    (exact,) = make_stages(BASE, [range(2)])
    mixed = mixed_like(exact)
    run_segments([mixed], make_batch(BASE, 1, 32), [32])
    gradient = mixed.model.layers["0"].mlp.up_proj.weight.grad
    assert not torch.equal(gradient, gradient.bfloat16().float())


def test_compute_weights_follow_an_explicit_refresh():
    (exact,) = make_stages(BASE, [range(2)])
    mixed, batch = mixed_like(exact), make_batch(BASE, 1, 16)
    before = run_segments([mixed], batch, [16])
    with torch.no_grad():
        mixed.lm_head.weight.mul_(0.5)
    assert torch.equal(run_segments([mixed], batch, [16]), before)
    mixed.refresh_compute_weights()
    assert not torch.equal(run_segments([mixed], batch, [16]), before)


def test_weights_changed_between_forward_and_backward_are_noticed():
    (stage,) = make_stages(BASE, [range(2)])
    batch = make_batch(BASE, 1, 16)

    def optimizer_step(*_):
        with torch.no_grad():
            stage.lm_head.weight.mul_(0.5)

    handle = stage.register_forward_hook(optimizer_step)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run_segments([stage], batch, [16])
    handle.remove()


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [256, 100])
def test_head_and_loss(compute, rows, monkeypatch):
    """In chunks, with ignored labels, against plain autograd in float64."""
    monkeypatch.setattr(loss, "_CHUNK_ROWS", rows)
    monkeypatch.setattr(loss, "_CHUNK_WORDS", 1)
    dtype = torch.promote_types(compute, torch.float32)
    build, queue = Build(dtype, compute), WeightQueue()
    norm, head = RMSNorm(32, 1e-6, build), Linear(32, 2000, False, build)
    for parameter in (norm.weight, head.weight):
        parameter.data.normal_()
    x = torch.randn(2, 350, 32, dtype=compute, requires_grad=True)
    labels = torch.randint(0, 2000, (2, 350))
    labels[:, ::3] = -100
    exact = [p.detach().double().requires_grad_() for p in (x, norm.weight, head.weight)]
    scaled = exact[0] * (exact[0].square().mean(-1, keepdim=True) + 1e-6).rsqrt() * exact[1]
    expected = torch.nn.functional.cross_entropy(
        (scaled @ exact[2].t()).flatten(0, 1), labels.flatten(), reduction="sum"
    )
    (expected / 7).backward()
    found = loss.head_loss(x, labels, norm, head, queue)
    assert found.dtype == dtype
    with queue.defer(0):
        (found / 7).backward()
    queue.run(0)
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 2e-6, torch.float64: 1e-12}[compute]
    assert abs(found - expected) / expected < tolerance
    for a, b in zip((x, norm.weight, head.weight), exact, strict=True):
        assert (a.grad - b.grad).norm() / b.grad.norm() < tolerance


def test_a_segment_without_labels_to_learn():
    batch = make_batch(BASE, 1, 12)
    batch.labels.fill_(-100)
    (stage,) = make_stages(BASE, [range(2)])
    assert run_segments([stage], batch, [7, 5]) == 0
    assert all(not p.grad.any() for p in stage.parameters())


def test_dynamic_rope_beyond_its_length_is_refused():
    table = RotaryTable(Rope(kind="dynamic", factor=2.0), 8, 16)
    table.upto(16, torch.empty(1))
    with pytest.raises(ConfigError, match="depends on the length of each batch"):
        table.upto(17, torch.empty(1))


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (((0,),), "2 rows, but starts of 1"),
        (((0,), (1,)), "row 1 must ascend from 0"),
        (((0,), (0, 5, 5)), "row 1"),
        (((0, 8), (0,)), "row 0 .*below 8"),
        (((0,), ()), "row 1"),
    ],
)
def test_document_starts_are_checked(starts, message):
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    with pytest.raises(DataError, match=message):
        MicroBatch(tokens, tokens, starts)
    with pytest.raises(DataError, match="differ in shape"):
        MicroBatch(tokens, tokens[:, :4], ((0,), (0,)))
