"""The queue of weight gradients: what waits, how many bytes, and what is refused."""

import pytest
import torch
from segment_runs import BASE, make_batch, make_stages, run_segments

from longpipe.errors import RunError
from longpipe.ir import segments_from_lengths
from longpipe.model import Build, WeightQueue
from longpipe.model.linear import Linear

torch.set_num_threads(1)


def make_linear(bias=False):
    linear = Linear(3, 2, bias, Build())
    with torch.no_grad():
        linear.weight.fill_(1.0)
    return linear


def test_at_once_and_deferred():
    linear, queue = make_linear(bias=True), WeightQueue()
    dy, x = torch.randn(5, 2), torch.randn(5, 3)
    queue.push(linear, dy, x)
    torch.testing.assert_close(linear.weight.grad, dy.t() @ x)
    with queue.defer((0, 1)):
        queue.push(linear, dy, x)
    torch.testing.assert_close(linear.weight.grad, dy.t() @ x)
    torch.testing.assert_close(linear.bias.grad, 2 * dy.sum(0))  # cheap, so never deferred
    assert queue.pending == 1
    queue.run((0, 1))
    torch.testing.assert_close(linear.weight.grad, 2 * dy.t() @ x)
    assert (queue.pending, queue.pending_bytes) == (0, 0)


def test_shared_inputs_are_counted_once():
    first, second, queue = make_linear(), make_linear(), WeightQueue()
    x = torch.randn(5, 3)
    with queue.defer("a"):
        queue.push(first, torch.randn(5, 2), x)
        queue.push(second, torch.randn(5, 2), x.view(5, 3))
    assert queue.pending_bytes == 4 * (5 * 3 + 2 * 5 * 2)


def test_misuse_is_refused():
    queue = WeightQueue()
    with queue.defer("a"), pytest.raises(RunError, match="inside defer"), queue.defer("b"):
        pass
    with pytest.raises(RunError, match="'a' is already waiting"), queue.defer("a"):
        pass
    with pytest.raises(RunError, match="nothing is queued under 'b'; waiting: 'a'"):
        queue.run("b")
    queue.run("a")
    with pytest.raises(RunError, match="waiting: nothing"):
        queue.run("a")


def test_frozen_parameters_get_no_gradient():
    batch = make_batch(BASE, 1, 16)
    (stage,) = make_stages(BASE, [range(2)])
    frozen = [stage.model.layers["0"].mlp.up_proj.weight, stage.model.embed_tokens.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    run_segments([stage], batch, [8, 8], "late")
    assert all(p.grad is None for p in frozen)
    assert all(p.grad is not None for p in stage.parameters() if p.requires_grad)


def test_queue_of_a_stage_holds_no_input_twice():
    """Per token: one normalised input for q, k, v, one for gate and up, and each layer's dy."""
    (stage,) = make_stages(BASE, [range(2)])
    c, tokens = BASE, 32
    state = stage.open(make_batch(c, 1, tokens))
    loss = stage(None, state, segments_from_lengths([tokens])[0])
    with stage.weight_queue.defer(0):
        loss.backward()
    inner, kv_inner = c.heads * c.head_dim, c.kv_heads * c.head_dim
    factors = {
        "qkv": c.hidden + inner + 2 * kv_inner,
        "o": inner + c.hidden,
        "gate, up": c.hidden + 2 * c.intermediate,
        "down": c.intermediate + c.hidden,
    }
    head = c.hidden + c.vocab
    assert stage.weight_queue.pending_bytes <= 8 * tokens * (
        c.layers * sum(factors.values()) + head
    )
