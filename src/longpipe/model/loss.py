"""Final norm, projection to the vocabulary and cross-entropy, without keeping any logits.

The last stage may hold the forwards of all segments at once, and logits are many times larger
than activations. So they are made a few rows at a time, and made again in the backward: one more
product with the head's weight, instead of a tensor of all tokens by the whole vocabulary.

Shapes: B rows, T tokens, N = B * T, E hidden size, V words of the vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from longpipe.model.linear import Linear, WeightQueue
from longpipe.model.norm import RMSNorm, rms_backward, rms_forward, wide

IGNORED = -100  # the label of a token that has no loss: torch's and Hugging Face's convention

_CHUNK_WORDS = 1 << 20  # logits worked on at a time
_CHUNK_ROWS = 256  # but never fewer rows than this: smaller matrix products are slow


def head_loss(
    x_BTE: Tensor,
    labels_BT: Tensor,
    norm: RMSNorm,
    head: Linear,
    queue: WeightQueue,
    known: bool = False,
) -> Tensor:
    """Sum over tokens of -log softmax(head(norm(x)))[label], a scalar in at least float32.

    Label -100 leaves a token out. The softmax is computed in at least float32. Where the loss is
    `known` and only its backward is wanted, it is not computed again: the result is 0.
    """
    return _head_loss(x_BTE, labels_BT, norm, head, queue, known, norm.weight, head.weight)


def _chunks(y_NE: Tensor, labels_N: Tensor, words: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(_CHUNK_ROWS, _CHUNK_WORDS // words)
    yield from zip(torch.split(y_NE, rows), torch.split(labels_N, rows), strict=True)


class _HeadLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTE: Tensor,
        labels_BT: Tensor,
        norm: RMSNorm,
        head: Linear,
        queue: WeightQueue,
        known: bool,
        *parameters: Tensor,
    ) -> Tensor:
        weight_VE, _ = head.compute_parameters()
        x_NE, labels_N = x_BTE.reshape(-1, x_BTE.shape[-1]), labels_BT.reshape(-1)
        y_NE, rstd_N1 = rms_forward(x_NE, norm)
        total = torch.zeros_like(rstd_N1[0, 0])
        chunks = () if known else _chunks(y_NE, labels_N, weight_VE.shape[0])
        for part_NE, target_N in chunks:
            logits_NV = wide(part_NE @ weight_VE.t())
            total += nn.functional.cross_entropy(
                logits_NV, target_N, ignore_index=IGNORED, reduction="sum"
            )
        ctx.save_for_backward(x_NE, rstd_N1, labels_N, norm.weight, weight_VE)
        ctx.shape, ctx.norm, ctx.head, ctx.queue = x_BTE.shape, norm, head, queue
        return total

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        x_NE, rstd_N1, labels_N, norm_weight, weight_VE = ctx.saved_tensors
        x_hat_NE = wide(x_NE) * rstd_N1
        y_NE = (x_hat_NE * norm_weight.detach()).to(x_NE.dtype)
        dys = []
        for part_NE, target_N in _chunks(y_NE, labels_N, weight_VE.shape[0]):
            dlogits_NV = _gradient(part_NE @ weight_VE.t(), target_N, dloss)
            dys.append(dlogits_NV @ weight_VE)
            ctx.queue.push(ctx.head, dlogits_NV, part_NE)
        dx_NE = rms_backward(torch.cat(dys), x_hat_NE, rstd_N1, ctx.norm).to(x_NE.dtype)
        return dx_NE.view(ctx.shape), *(None,) * 7


def _gradient(logits_NV: Tensor, labels_N: Tensor, dloss: Tensor) -> Tensor:
    """Gradient of the loss by the logits, in their type: (softmax - one-hot) * dloss."""
    valid_N1 = (labels_N != IGNORED).unsqueeze(1)
    label_N1 = labels_N.unsqueeze(1).where(valid_N1, 0)
    grad_NV = torch.softmax(wide(logits_NV), dim=-1)
    grad_NV.scatter_add_(1, label_N1, -torch.ones_like(label_N1, dtype=grad_NV.dtype))
    return grad_NV.mul_(valid_N1 * dloss).to(logits_NV.dtype)


_head_loss: Callable[..., Tensor] = _HeadLoss.apply
