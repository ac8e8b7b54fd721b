"""Root-mean-square norm (arXiv:1910.07467), with a backward that needs only its input.

Shapes: N tokens (or heads of tokens), E size of the normalised dimension.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from longpipe.model.linear import Build, add_gradient, empty_parameter


class RMSNorm(nn.Module):
    """Holds `weight` [E]; calling it normalises the last dimension."""

    weight: nn.Parameter

    def __init__(self, size: int, eps: float, build: Build) -> None:
        super().__init__()
        self.weight = empty_parameter((size,), build)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., E] over its root mean square, times the weight; same shape and type."""
        return _normalise(x, self, self.weight)


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32, in which norms and losses are computed."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def rms_forward(x_NE: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
    """(y [N, E] in x's type, 1/rms [N, 1] in at least float32)."""
    x_NE_wide = wide(x_NE)
    rstd_N1 = torch.linalg.vector_norm(x_NE_wide, dim=-1, keepdim=True)
    rstd_N1 = rstd_N1.square_().div_(x_NE.shape[-1]).add_(norm.eps).rsqrt_()
    y_NE = (x_NE_wide * rstd_N1).mul_(norm.weight.detach())
    return y_NE.to(x_NE.dtype), rstd_N1


def rms_backward(dy_NE: Tensor, x_hat_NE: Tensor, rstd_N1: Tensor, norm: RMSNorm) -> Tensor:
    """Gradient of the input, in the type of `x_hat`; adds the weight's to its `grad`.

    `x_hat_NE` is the input over its root mean square. `dy_NE` may be overwritten.
    """
    dy_NE = wide(dy_NE)
    weight = norm.weight.detach().to(dy_NE.dtype)
    dy_x_hat_NE = dy_NE * x_hat_NE
    add_gradient(norm.weight, dy_x_hat_NE.sum(0))
    mean_N1 = torch.mv(dy_x_hat_NE, weight).div_(weight.shape[0]).unsqueeze(1)
    return dy_NE.mul_(weight).addcmul_(x_hat_NE, mean_N1, value=-1).mul_(rstd_N1)


class _Normalise(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RMSNorm, weight: Tensor) -> Tensor:
        x_NE = x.reshape(-1, x.shape[-1])
        y_NE, rstd_N1 = rms_forward(x_NE, norm)
        ctx.save_for_backward(x_NE, rstd_N1, weight)
        ctx.norm = norm
        return y_NE.view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x_NE, rstd_N1, _ = ctx.saved_tensors
        x_hat_NE = wide(x_NE) * rstd_N1
        # Autograd may still need `dy`, so work on a copy.
        dx_NE = rms_backward(dy.reshape(x_NE.shape).clone(), x_hat_NE, rstd_N1, ctx.norm)
        return dx_NE.to(x_NE.dtype).view(dy.shape), None, None


_normalise: Callable[..., Tensor] = _Normalise.apply
