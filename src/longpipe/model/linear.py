"""Linear layers that compute their own weight gradients: at once, or later when told to.

A pipeline schedule may split the backward of a stage in two: `I` computes the gradient of the
input, which the previous stage waits for, and `W` the gradients of the weights, which nobody waits
for (zero bubble, arXiv:2401.10241). Here the split lives in the layers: their backward hands the
two factors of each weight gradient to a `WeightQueue`, which multiplies them now or keeps them.

Shapes: N tokens (rows and positions flattened), E inputs, O outputs of a layer.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from longpipe.errors import RunError


@dataclass(frozen=True, slots=True)
class Build:
    """How parameters are made.

    `dtype` is that of the parameters and their gradients; `compute` that of activations and
    products (`None`: the same). With `seed=None` parameters stay uninitialised, to be loaded.
    """

    dtype: torch.dtype = torch.float32
    compute: torch.dtype | None = None
    device: torch.device | str = "cpu"
    seed: int | None = 0

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of activations."""
        return self.compute or self.dtype


class Linear(nn.Module):
    """Holds `weight` [O, E] and perhaps `bias` [O], and their copies in the compute type.

    It has no `forward`: the functions of `longpipe.model.functions` use it, each fused with what
    stands before it so that little is kept for the backward.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, bias: bool, build: Build) -> None:
        super().__init__()
        self.weight = empty_parameter((outputs, inputs), build)
        self.register_parameter("bias", empty_parameter((outputs,), build) if bias else None)
        self._copies: tuple[Tensor, Tensor | None] | None = None
        self._compute = None if build.compute_dtype == build.dtype else build.compute_dtype

    def compute_parameters(self) -> tuple[Tensor, Tensor | None]:
        """(weight, bias) in the type of the activations, without history."""
        if self._compute is None:
            bias = self.bias
            return self.weight.detach(), None if bias is None else bias.detach()
        if self._copies is None:
            narrow = None if self.bias is None else self.bias.detach().to(self._compute)
            self._copies = (self.weight.detach().to(self._compute), narrow)
        return self._copies

    def refresh(self) -> None:
        """Copies the parameters into the compute type anew, if they were ever used in it."""
        if self._copies is None:
            return
        weight, bias = self._copies
        weight.copy_(self.weight.detach())
        if self.bias is not None and bias is not None:
            bias.copy_(self.bias.detach())


def empty_parameter(shape: tuple[int, ...], build: Build) -> nn.Parameter:
    """An uninitialised parameter."""
    return nn.Parameter(torch.empty(shape, dtype=build.dtype, device=build.device))


@dataclass(frozen=True, slots=True)
class _Product:
    """One weight gradient to be: `dy_NO.T @ x_NE`."""

    linear: Linear
    dy_NO: Tensor
    x_NE: Tensor


class WeightQueue:
    """Weight-gradient products of one stage, run at once unless deferred.

    Inside `defer(key)` the products that a backward makes are kept under `key`; `run(key)` computes
    them, adds them to each `weight.grad` and lets their factors go.
    """

    def __init__(self) -> None:
        self._products: dict[Hashable, list[_Product]] = {}
        self._storages: dict[Hashable, dict[int, int]] = {}
        self._key: Hashable | None = None

    @contextmanager
    def defer(self, key: Hashable) -> Iterator[None]:
        """Keeps the products of the backwards inside under `key`.

        Raises RunError if `key` is still waiting or another `defer` is open.
        """
        if self._key is not None:
            raise RunError(f"weight queue: defer({key!r}) inside defer({self._key!r})")
        if key in self._products:
            raise RunError(
                f"weight queue: {key!r} is already waiting; run it before it is queued again"
            )
        self._products[key] = []
        self._storages[key] = {}
        self._key = key
        try:
            yield
        finally:
            self._key = None

    def run(self, key: Hashable) -> None:
        """Computes what was deferred under `key` and adds it to the gradients."""
        products = self._products.pop(key, None)
        if products is None:
            waiting = ", ".join(map(repr, self._products)) or "nothing"
            raise RunError(f"weight queue: nothing is queued under {key!r}; waiting: {waiting}")
        del self._storages[key]
        products.reverse()
        while products:  # popping lets each pair of factors go as soon as it is used
            _add_product(products.pop())

    def push(self, linear: Linear, dy_NO: Tensor, x_NE: Tensor) -> None:
        """Takes the two factors of a weight gradient; a bias gradient is added at once."""
        if linear.bias is not None:
            add_gradient(linear.bias, dy_NO.sum(0, dtype=_sum_dtype(dy_NO)))
        product = _Product(linear, dy_NO, x_NE)
        if self._key is None:
            _add_product(product)
            return
        self._products[self._key].append(product)
        storages = self._storages[self._key]
        for factor in (dy_NO, x_NE):
            storage = factor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()

    @property
    def pending(self) -> int:
        """Number of keys whose products wait."""
        return len(self._products)

    @property
    def pending_bytes(self) -> int:
        """Bytes that the waiting factors keep alive, each storage counted once per key."""
        return sum(sum(storages.values()) for storages in self._storages.values())


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """`parameter.grad += gradient`; takes the tensor over when it is the first."""
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype)
    else:
        parameter.grad.add_(gradient)


def _add_product(product: _Product) -> None:
    weight = product.linear.weight
    if not weight.requires_grad:
        return
    dy_ON, x_NE = product.dy_NO.t(), product.x_NE
    if weight.dtype == x_NE.dtype:
        if weight.grad is None:
            weight.grad = torch.mm(dy_ON, x_NE)
        else:
            weight.grad.addmm_(dy_ON, x_NE)
    else:
        add_gradient(weight, _wide_product(dy_ON, x_NE, weight.dtype))


def _wide_product(dy_ON: Tensor, x_NE: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of half precision factors, not rounded to half precision."""
    if dy_ON.is_cuda and dtype == torch.float32:
        return torch.mm(dy_ON, x_NE, out_dtype=dtype)
    return torch.mm(dy_ON.to(dtype), x_NE.to(dtype))


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
