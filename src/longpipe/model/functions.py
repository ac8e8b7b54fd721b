"""The decoder's linear algebra as four autograd functions, each saving as little as it can.

A layer keeps, per token: its input and the input of its MLP (norms are recomputed from them), the
rotated query and the attention output, the gate and the up projection (their product is
recomputed). Everything else is made again in the backward from these, without a matrix product.

Shapes: B rows, T tokens, N = B * T, E inputs and O outputs of a linear layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from longpipe.model.linear import Linear, WeightQueue, add_gradient
from longpipe.model.norm import RMSNorm, rms_backward, rms_forward, wide


def embed(tokens_BT: Tensor, weight: nn.Parameter, dtype: torch.dtype) -> Tensor:
    """Rows of `weight` for each token, [B, T, E], in `dtype`."""
    return _embed(tokens_BT, weight, dtype)


def norm_project(
    x_BTE: Tensor, norm: RMSNorm, linears: tuple[Linear, ...], queue: WeightQueue
) -> tuple[Tensor, ...]:
    """Each of `linears` applied to the normalised `x`; keeps `x`, not the normalised one."""
    parameters = [norm.weight]
    for linear in linears:
        parameters.append(linear.weight)
        if linear.bias is not None:
            parameters.append(linear.bias)
    return _norm_project(x_BTE, norm, linears, queue, *parameters)


def project_add(x_BTE: Tensor, residual_BTO: Tensor, linear: Linear, queue: WeightQueue) -> Tensor:
    """`residual + linear(x)`."""
    return _project_add(x_BTE, residual_BTO, linear, queue, linear.weight, linear.bias)


def swiglu_project_add(
    gate_BTE: Tensor, up_BTE: Tensor, residual_BTO: Tensor, linear: Linear, queue: WeightQueue
) -> Tensor:
    """`residual + linear(silu(gate) * up)` (arXiv:2002.05202); keeps `gate` and `up` only."""
    return _swiglu_project_add(
        gate_BTE, up_BTE, residual_BTO, linear, queue, linear.weight, linear.bias
    )


class _Embed(Function):
    @staticmethod
    def forward(ctx: Any, tokens_BT: Tensor, weight: nn.Parameter, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens_BT)
        ctx.weight = weight
        return weight.detach()[tokens_BT].to(dtype)

    @staticmethod
    def backward(ctx: Any, dx_BTE: Tensor) -> tuple[None, None, None]:
        (tokens_BT,) = ctx.saved_tensors
        weight = ctx.weight
        if weight.grad is None:
            add_gradient(weight, torch.zeros_like(weight))
        rows, values = tokens_BT.reshape(-1), dx_BTE.reshape(-1, dx_BTE.shape[-1])
        values = values.to(weight.dtype)
        # Only the touched rows are written. On CUDA, index_add_ sums in an order of chance.
        if weight.is_cuda:
            weight.grad.index_put_((rows,), values, accumulate=True)
        else:
            weight.grad.index_add_(0, rows, values)
        return None, None, None


class _NormProject(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTE: Tensor,
        norm: RMSNorm,
        linears: tuple[Linear, ...],
        queue: WeightQueue,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        x_NE = x_BTE.reshape(-1, x_BTE.shape[-1])
        y_NE, rstd_N1 = rms_forward(x_NE, norm)
        outs, weights = [], []
        for linear in linears:
            weight, bias = linear.compute_parameters()
            weights.append(weight)
            outs.append(_affine(y_NE, weight, bias).view(*x_BTE.shape[:-1], -1))
        ctx.save_for_backward(x_NE, rstd_N1, norm.weight, *weights)
        ctx.norm, ctx.linears, ctx.queue, ctx.parameters = norm, linears, queue, len(parameters)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, rstd_N1, norm_weight, *weights = ctx.saved_tensors
        x_hat_NE = wide(x_NE) * rstd_N1
        y_NE = (x_hat_NE * norm_weight.detach()).to(x_NE.dtype)
        dy_NE: Tensor | None = None
        for dy, linear, weight in zip(dys, ctx.linears, weights, strict=True):
            dy_NO = dy.reshape(-1, dy.shape[-1])
            dy_NE = dy_NO @ weight if dy_NE is None else dy_NE.addmm_(dy_NO, weight)
            ctx.queue.push(linear, dy_NO, y_NE)
        assert dy_NE is not None, "norm_project has at least one linear layer"
        dx_NE = rms_backward(dy_NE, x_hat_NE, rstd_N1, ctx.norm).to(x_NE.dtype)
        return dx_NE.view(*dys[0].shape[:-1], -1), None, None, None, *(None,) * ctx.parameters


class _ProjectAdd(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTE: Tensor,
        residual_BTO: Tensor,
        linear: Linear,
        queue: WeightQueue,
        *parameters: Tensor | None,
    ) -> Tensor:
        weight, bias = linear.compute_parameters()
        x_NE = x_BTE.reshape(-1, x_BTE.shape[-1])
        ctx.save_for_backward(x_NE, weight)
        ctx.linear, ctx.queue = linear, queue
        return _affine_add(residual_BTO, x_NE, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, weight = ctx.saved_tensors
        dy_NO = dy_BTO.reshape(-1, dy_BTO.shape[-1])
        dx_NE = dy_NO @ weight
        ctx.queue.push(ctx.linear, dy_NO, x_NE)
        return dx_NE.view(*dy_BTO.shape[:-1], -1), dy_BTO, None, None, None, None


class _SwigluProjectAdd(Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate_BTE: Tensor,
        up_BTE: Tensor,
        residual_BTO: Tensor,
        linear: Linear,
        queue: WeightQueue,
        *parameters: Tensor | None,
    ) -> Tensor:
        weight, bias = linear.compute_parameters()
        gate_NE, up_NE = (x.reshape(-1, x.shape[-1]) for x in (gate_BTE, up_BTE))
        ctx.save_for_backward(gate_NE, up_NE, weight)
        ctx.linear, ctx.queue = linear, queue
        x_NE = nn.functional.silu(gate_NE).mul_(up_NE)
        return _affine_add(residual_BTO, x_NE, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy_BTO: Tensor) -> tuple[Tensor | None, ...]:
        gate_NE, up_NE, weight = ctx.saved_tensors
        dy_NO = dy_BTO.reshape(-1, dy_BTO.shape[-1])
        dx_NE = dy_NO @ weight
        silu_NE = nn.functional.silu(gate_NE)
        ctx.queue.push(ctx.linear, dy_NO, silu_NE * up_NE)
        dup_NE = silu_NE.mul_(dx_NE)
        dgate_NE = torch.ops.aten.silu_backward(dx_NE.mul_(up_NE), gate_NE)
        shape = (*dy_BTO.shape[:-1], -1)
        return dgate_NE.view(shape), dup_NE.view(shape), dy_BTO, None, None, None, None


def _affine(x_NE: Tensor, weight_OE: Tensor, bias_O: Tensor | None) -> Tensor:
    if bias_O is None:
        return x_NE @ weight_OE.t()
    return torch.addmm(bias_O, x_NE, weight_OE.t())


def _affine_add(
    residual_BTO: Tensor, x_NE: Tensor, weight_OE: Tensor, bias_O: Tensor | None
) -> Tensor:
    residual_NO = residual_BTO.reshape(-1, residual_BTO.shape[-1])
    out_NO = torch.addmm(residual_NO, x_NE, weight_OE.t())
    if bias_O is not None:
        out_NO.add_(bias_O)
    return out_NO.view(residual_BTO.shape)


_embed: Callable[..., Tensor] = _Embed.apply
_norm_project: Callable[..., tuple[Tensor, ...]] = _NormProject.apply
_project_add: Callable[..., Tensor] = _ProjectAdd.apply
_swiglu_project_add: Callable[..., Tensor] = _SwigluProjectAdd.apply
