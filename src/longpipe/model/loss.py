"""Cross-entropy, summed over the tokens that have a label.

Shapes: N tokens, V words of the vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from longpipe.model.norm import wide

IGNORED = -100  # the label of a token that has no loss: torch's and Hugging Face's convention

_CHUNK_WORDS = 1 << 20  # logits worked on at a time: bounds what is held beside them


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over tokens of -log softmax(logits)[label], a scalar in at least float32.

    `logits` [..., V] must not be used afterwards: in the backward their memory takes their own
    gradient. Label -100 leaves a token out. The softmax is computed in at least float32.
    """
    return _cross_entropy_sum(logits, labels)


def _chunks(logits_NV: Tensor, labels_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, _CHUNK_WORDS // logits_NV.shape[1])
    yield from zip(torch.split(logits_NV, rows), torch.split(labels_N, rows), strict=True)


class _CrossEntropySum(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits_NV, labels_N = logits.view(-1, logits.shape[-1]), labels.reshape(-1)
        total = torch.zeros((), dtype=wide(logits[:0]).dtype, device=logits.device)
        for part_NV, target_N in _chunks(logits_NV, labels_N):
            total += nn.functional.cross_entropy(
                wide(part_NV), target_N, ignore_index=IGNORED, reduction="sum"
            )
        ctx.save_for_backward(logits_NV, labels_N)
        ctx.shape = logits.shape
        return total

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None]:
        # Written in place: a second backward is stopped by autograd's version check.
        logits_NV, labels_N = ctx.saved_tensors
        for part_NV, target_N in _chunks(logits_NV, labels_N):
            valid_N1 = (target_N != IGNORED).unsqueeze(1)
            safe_N1 = target_N.unsqueeze(1).where(valid_N1, 0)
            grad_NV = torch.softmax(wide(part_NV), dim=-1)
            grad_NV.scatter_add_(1, safe_N1, -torch.ones_like(safe_N1, dtype=grad_NV.dtype))
            torch.mul(grad_NV, valid_N1 * dloss, out=part_NV)
        return logits_NV.view(ctx.shape), None


_cross_entropy_sum: Callable[..., Tensor] = _CrossEntropySum.apply
