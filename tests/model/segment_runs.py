"""Helpers that run stages over segments as a schedule would, and compare gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from plain_decoder import plain_loss
from torch import Tensor

from longpipe.ir import segments_from_lengths
from longpipe.model import Build, DecoderConfig, DecoderStage, MicroBatch, make_stage

BASE = DecoderConfig(
    hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=48, vocab=61
)
CONFIGS = {
    "llama": BASE,
    "tied": replace(BASE, tied=True),
    "every bias": replace(BASE, qkv_bias=True, o_bias=True, mlp_bias=True),
    "qwen2": replace(BASE, model_type="qwen2", qkv_bias=True, tied=True),
    "qwen3": replace(BASE, model_type="qwen3", qk_norm=True, head_dim=16),
    "one kv head": replace(BASE, kv_heads=1),
    "no sharing": replace(BASE, kv_heads=4),
}
EXACT = 1e-10  # relative, float64


def make_batch(
    config: DecoderConfig, rows: int, length: int, starts: Sequence[Sequence[int]] | None = None
) -> MicroBatch:
    stream = torch.Generator().manual_seed(rows * length)
    tokens, labels = torch.randint(0, config.vocab, (2, rows, length), generator=stream)
    labels[:, length // 3 : length // 3 + 5] = -100
    packed = starts or [(0,)] * rows
    return MicroBatch(tokens, labels, tuple(map(tuple, packed)))


def make_stages(
    config: DecoderConfig, splits: Sequence[range], dtype: torch.dtype = torch.float64
) -> list[DecoderStage]:
    """Stages with every parameter away from its special initial value."""
    stages = [make_stage(config, splits, i, Build(dtype=dtype)) for i in range(len(splits))]
    for stage in stages:
        for name, parameter in stage.named_parameters():
            stream = torch.Generator().manual_seed(len(name))
            noise = torch.empty(parameter.shape).normal_(0, 0.2, generator=stream)
            parameter.data += noise.to(parameter.dtype)
    return stages


def run_segments(
    stages: Sequence[DecoderStage],
    batch: MicroBatch,
    lengths: Sequence[int],
    split_backward: str | None = None,
) -> Tensor:
    """Forward first to last, backward last to first; returns the loss sum.

    `split_backward`: None for B; "at once": W follows its I; "late": all W at the very end, in
    the order of their I; "reversed": in the opposite order.
    """
    segments = segments_from_lengths(lengths)
    states = [stage.open(batch) for stage in stages]
    saved = []
    for segment in segments:
        x, boundaries = None, []
        for stage, state in zip(stages, states, strict=True):
            inputs = None if x is None else x.detach().requires_grad_()
            x = stage(inputs, state, segment)
            boundaries.append((inputs, x))
        saved.append(boundaries)
    total = torch.stack([boundaries[-1][1].detach() for boundaries in saved]).sum()
    waiting = []
    for index in reversed(range(len(segments))):
        gradient = None
        for stage, (inputs, x) in reversed(list(zip(stages, saved[index], strict=True))):
            with stage.weight_queue.defer(index) if split_backward else nullcontext():
                x.backward(gradient)
            gradient = None if inputs is None else inputs.grad
            if split_backward == "at once":
                stage.weight_queue.run(index)
            elif split_backward:
                waiting.append((stage, index))
    for stage, index in reversed(waiting) if split_backward == "reversed" else waiting:
        stage.weight_queue.run(index)
    for stage, state in zip(stages, states, strict=True):
        stage.close(state)
        assert stage.weight_queue.pending == 0
        assert stage.weight_queue.pending_bytes == 0
    return total


def gradients(stages: Sequence[DecoderStage]) -> dict[str, Tensor]:
    """Gradient of every parameter, those of tied ones summed."""
    found: dict[str, Tensor] = {}
    for stage in stages:
        for name, parameter in stage.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            found[name] = found[name] + parameter.grad if name in found else parameter.grad
    return found


def plain_gradients(
    stages: Sequence[DecoderStage], batch: MicroBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the plain decoder with the stages' weights."""
    weights = {
        name: parameter.detach().clone().requires_grad_()
        for stage in stages
        for name, parameter in stage.named_parameters()
    }
    loss = plain_loss(stages[0].config, weights, batch)
    loss.backward()
    return loss.detach(), {name: w.grad for name, w in weights.items()}


def worst_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """Largest relative error of a gradient, and whose it is."""
    assert found.keys() == expected.keys()
    return max((((found[n] - expected[n]).norm() / expected[n].norm()).item(), n) for n in expected)


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Sets an attribute for a while: how the tests plant a fault."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)
