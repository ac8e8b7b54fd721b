"""Optimizer, learning rate and the norm over all ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import run_ranks
from torch.nn import Parameter

from longpipe.train.config import OptimConfig
from longpipe.train.optim import (
    build_adamw,
    clip,
    learning_rate,
    norm_of,
    optimizer_tensors,
    set_learning_rate,
    sum_of_squares,
)

torch.set_num_threads(1)


def rates(steps: int, **settings: object) -> list[float]:
    config = OptimConfig(lr=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(step, config, steps) for step in range(steps + 2)]


def test_warm_up_rises_in_equal_parts() -> None:
    assert rates(5, warmup_steps=4, decay="constant") == [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert rates(2, decay="constant") == [1, 1, 1, 1]


def test_cosine_falls_to_the_floor_and_stays() -> None:
    got = rates(6, warmup_steps=2, decay="cosine", min_lr_ratio=0.1)
    half = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t)) for t in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert got == [0.5, 1.0, *half]
    early = rates(6, decay="cosine", decay_steps=2, min_lr_ratio=0.0)
    assert early == pytest.approx([1.0, 0.5, 0, 0, 0, 0, 0, 0], abs=1e-15)


def test_wsd_is_flat_and_ends_in_a_line() -> None:
    got = rates(10, warmup_steps=2, decay="wsd", decay_steps=4, min_lr_ratio=0.0)
    assert got == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert rates(20, decay="wsd", min_lr_ratio=0.5)[17:] == [1, 1, 0.75, 0.5, 0.5]
    overlap = rates(4, warmup_steps=4, decay="wsd", min_lr_ratio=0.0)
    assert overlap[:4] == [0.25, 0.5, 0.75, 1]


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (5, 3), "norm.weight": (3,), "b.weight": (2, 5)}
    made = {}
    for name, shape in shapes.items():
        made[name] = Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        made[name].grad = torch.randn(shape, generator=generator, dtype=dtype)
    return made


def test_adamw_steps_as_the_paper_says_and_decays_matrices_only() -> None:
    config = OptimConfig(lr=0.1, betas=(0.8, 0.9), weight_decay=0.5, eps=1e-6)
    held = parameters()
    before = {name: p.detach().clone() for name, p in held.items()}
    optimizer = build_adamw(held, config)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    for name, p in held.items():
        assert p.grad is not None
        decay = 0.5 if p.ndim > 1 else 0.0
        # After one step the corrected averages are the gradient and its square.
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * p.grad / (p.grad.abs() + 1e-6)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


def test_optimizer_state_has_names_without_layout_and_is_live() -> None:
    held = parameters()
    optimizer = build_adamw(held, OptimConfig())
    tensors = optimizer_tensors(optimizer, held)
    assert set(tensors) == {
        f"{name}.{key}" for name in held for key in ("step", "exp_avg", "exp_avg_sq")
    }
    optimizer.step()
    assert tensors["a.weight.step"] == 1
    assert tensors["a.weight.exp_avg"].abs().sum() > 0


def clip_grad_norm(
    held: dict[str, Parameter], max_norm: float, elsewhere: frozenset[str] = frozenset()
) -> float:
    """Clip as a step does, over all ranks of a group if there is one."""
    squares = [sum_of_squares(held, elsewhere)]
    if dist.is_initialized():
        squares = squares * dist.get_world_size()
        dist.all_gather_object(squares, squares[0])
    norm = norm_of(squares)
    clip(held, norm, max_norm)
    return norm


def test_a_rank_without_parameters_or_gradients_is_no_special_case() -> None:
    build = build_adamw({"norm.weight": Parameter(torch.ones(3))}, OptimConfig())
    build.step()
    assert clip_grad_norm({}, 1.0) == 0.0
    assert clip_grad_norm({"a": Parameter(torch.ones(3))}, 1.0) == 0.0


def reference_norm(held: dict[str, Parameter]) -> float:
    grads = [p.grad for p in held.values() if p.grad is not None]
    return float(torch.cat([grad.flatten() for grad in grads]).double().norm())


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_gradients_are_scaled_only_above_the_bound(max_norm: float) -> None:
    held = parameters()
    before = {name: p.grad.clone() for name, p in held.items() if p.grad is not None}
    expected = reference_norm(held)
    assert clip_grad_norm(held, max_norm) == pytest.approx(expected, rel=1e-14)
    scale = min(1.0, max_norm / expected) if max_norm else 1.0
    for name, p in held.items():
        torch.testing.assert_close(p.grad, before[name] * scale, rtol=1e-14, atol=0)


def test_squares_are_summed_in_float64() -> None:
    grad = torch.full((3 << 20,), 0.1)
    held = {"w": Parameter(torch.zeros(3 << 20))}
    held["w"].grad = grad
    exact = float(grad[0]) * math.sqrt(3 << 20)
    assert clip_grad_norm(held, 0) == pytest.approx(exact, rel=1e-10)


def test_a_norm_beyond_float64_is_infinite() -> None:
    assert norm_of([1e308, 1e308]) == math.inf
    assert norm_of([1e308, 0.0]) == pytest.approx(1e154)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_touches_no_gradient(bad: float) -> None:
    held = parameters()
    grad = held["a.weight"].grad
    assert grad is not None
    grad[0, 0] = bad
    before = {name: p.grad.clone() for name, p in held.items() if p.grad is not None}
    assert not math.isfinite(clip_grad_norm(held, 1.0))
    for name, p in held.items():
        torch.testing.assert_close(p.grad, before[name], rtol=0, atol=0, equal_nan=True)


def _clip_on_ranks(rank: int, expected: float) -> None:
    """Rank 0 holds a and the norm, rank 1 b and a tied copy of a that rank 0 counts."""
    held = parameters()
    mine = ("a.weight", "norm.weight") if rank == 0 else ("a.weight", "b.weight")
    local = {name: held[name] for name in mine}
    elsewhere = frozenset() if rank == 0 else frozenset({"a.weight"})
    before = {name: p.grad.clone() for name, p in local.items() if p.grad is not None}
    norm = clip_grad_norm(local, 0.5, elsewhere)
    assert norm == pytest.approx(expected, rel=1e-14)
    everyone: list[float] = [0.0, 0.0]
    dist.all_gather_object(everyone, norm)
    assert everyone[0] == everyone[1], "the same bits on every rank"
    for name, p in local.items():
        torch.testing.assert_close(p.grad, before[name] * (0.5 / norm), rtol=1e-14, atol=0)
    if rank == 1:
        local["b.weight"].grad = torch.full((2, 5), math.nan, dtype=torch.float64)
    assert math.isnan(clip_grad_norm(local, 0.5))


def test_the_norm_over_ranks_counts_tied_weights_once(tmp_path: Path) -> None:
    run_ranks(_clip_on_ranks, 2, tmp_path, reference_norm(parameters()))
