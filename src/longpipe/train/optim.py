"""AdamW, its learning rate, and clipping by the norm over all ranks."""

import math
from collections.abc import Iterable, Mapping, Set

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW

from longpipe.train.config import OptimConfig

_PIECE = 1 << 22
"""Elements that are widened to float64 at a time: bounds the memory of the norm."""


def build_adamw(parameters: Mapping[str, Parameter], config: OptimConfig) -> AdamW:
    """AdamW over named parameters (Loshchilov & Hutter, arXiv:1711.05101).

    Weight decay acts on matrices only: gains and biases, which have one dimension, are left alone.
    State is made at once, so that `optimizer_tensors` can be filled from a checkpoint before the
    first step.
    """
    matrices = [p for p in parameters.values() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in parameters.values() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # The fused kernel passes over memory once: several times faster than the default on CPU.
    optimizer = AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    for parameter in (*matrices, *vectors):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


def optimizer_tensors(optimizer: AdamW, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """The optimizer's state under names that no layout enters: `<parameter>.exp_avg` and so on.

    The tensors are the optimizer's own: writing into them restores it.
    """
    return {
        f"{name}.{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Learning rate of optimizer step `step` (the first is 0) in a run of `steps`.

    Warm-up: lr * (step + 1) / warmup_steps. Cosine (arXiv:1608.03983) falls from lr to the floor
    over `decay_steps` after the warm-up. WSD (arXiv:2404.06395, here with a linear end) stays at lr
    until `decay_steps` before the run's end. Floor: min_lr_ratio * lr.

    >>> config = OptimConfig(lr=1.0, warmup_steps=2, decay="constant")
    >>> [learning_rate(step, config, steps=4) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.lr
    if config.decay == "cosine":
        begin = config.warmup_steps
        length = config.decay_steps or max(1, steps - begin)
        share = 0.5 * (1.0 + math.cos(math.pi * _progress(step, begin, length)))
    else:
        length = config.decay_steps or max(1, steps // 10)
        begin = max(config.warmup_steps, steps - length)
        share = 1.0 - _progress(step, begin, length)
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share)


def set_learning_rate(optimizer: AdamW, lr: float) -> None:
    """Use `lr` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def sum_of_squares(
    parameters: Mapping[str, Parameter], counted_elsewhere: Set[str] = frozenset()
) -> float:
    """This rank's part of the squared 2-norm of the gradient over all ranks; see `norm_of`.

    Summed in float64: a float32 sum over ten million elements is off by a thousandth. Parameters
    without a gradient count nothing, nor do those `counted_elsewhere`: tied ones whose summed
    gradient another rank counts.
    """
    squares = [
        _sum_of_squares(p.grad)
        for name, p in parameters.items()
        if p.grad is not None and name not in counted_elsewhere
    ]
    return float(torch.stack(squares).sum()) if squares else 0.0


def norm_of(squares: Iterable[float]) -> float:
    """The 2-norm from the `sum_of_squares` of the ranks.

    The sum is rounded once, at its end: the same bits on every rank and in every run.
    """
    try:
        return math.sqrt(math.fsum(squares))
    except OverflowError:  # finite squares with a sum beyond float64
        return math.inf


def clip(parameters: Mapping[str, Parameter], norm: float, max_norm: float) -> None:
    """Scale this rank's gradients so that `norm`, over all ranks, becomes at most `max_norm`.

    With `max_norm` 0, or a norm that is not finite, no gradient is touched.
    """
    if max_norm and math.isfinite(norm) and norm > max_norm:
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(max_norm / norm)


def _progress(step: int, begin: int, length: int) -> float:
    return min(1.0, max(0.0, (step - begin) / length))


def _sum_of_squares(grad: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=grad.device)
    for piece in torch.split(grad.detach().flatten(), _PIECE):
        wide = piece.double()
        total += torch.dot(wide, wide)
    return total
