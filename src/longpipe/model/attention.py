"""Causal attention of one segment, with keys and values of earlier segments kept beside autograd.

Forward goes from the first segment to the last; each writes its keys and values into the layer's
`KVStore` and attends to those before. Backward goes from the last to the first (Seq1F1B,
arXiv:2406.03488); each adds to the gradients of the keys and values before it, and hands its own,
complete by then, to the projections. The store checks the order: a wrong one would raise nothing
and give wrong gradients.

A forward may be run twice, the first time keeping little (`Forward`). The second one finds its keys
and values in the store, which later segments needed meanwhile, and perhaps attention's output.

Shapes: B rows, S tokens of the sequence, T of the segment, H query heads, G key-value heads,
D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from longpipe.errors import RunError
from longpipe.ir import Segment
from longpipe.model.batch import Pieces
from longpipe.model.kernels import Grads, Inputs, Kernel, Lse
from longpipe.model.rope import rotate, rotate_back


class Forward(Enum):
    """Which forward of a segment runs, and what it keeps."""

    ONLY = "the only one: it keeps all that the backward reads"
    LIGHT = "the first of two: it keeps the keys and values that later segments read"
    SELECTIVE = "the first of two: it keeps attention's outputs as well"
    AGAIN = "the second of two: it keeps all that the backward reads"


@dataclass(frozen=True, slots=True)
class SegmentView:
    """What attention must know of a segment, the same for all layers of a stage."""

    segment: Segment
    pieces: tuple[Pieces, ...]
    cosine: Tensor
    sine: Tensor
    length: int
    forward: Forward = Forward.ONLY


Attended = tuple[Tensor, list[Lse]]
"""Attention's output [B, T, H, D] and the log-sum-exp of each group of rows."""


class KVStore:
    """Keys, values and their gradients of one layer and one micro-batch.

    `k` and `v` [B, capacity, G, D] grow and shrink by halves with the tokens between their forward
    and their backward, since several micro-batches share the memory; each token is copied about
    twice. The gradients of the tokens before the segment that ran backward last are whatever its
    kernel returned, with the earlier ones added: they shrink as the backward nears the start, and
    nothing is zeroed or copied. All is freed when the backward of the first segment has run.

    Of a segment whose forward will run again the keys and values stay, for the segments after it;
    those of the last segment, which nobody else reads, go and are appended again.
    """

    __slots__ = ("_attended", "_due", "_filled", "_left", "_name", "_recorded", "k", "v")

    def __init__(self, name: str) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self._name = name
        self._filled = 0  # tokens whose forward has run
        self._left = -1  # tokens whose backward has not run; -1: no backward has run
        self._recorded = False  # whether a backward is owed
        self._due: dict[int, tuple[Tensor, Tensor]] = {}
        self._attended: dict[int, Attended] = {}  # of segments whose forward will run again

    def holds(self, view: SegmentView) -> bool:
        """Whether the first forward of a segment that runs again has left its keys and values."""
        return view.forward is Forward.AGAIN and view.segment.stop <= self._filled

    def extend(self, view: SegmentView, k_BTGD: Tensor, v_BTGD: Tensor) -> None:
        """Appends the keys and values of the next segment."""
        segment = view.segment
        if segment.start != self._filled:
            raise RunError(
                f"{self._name}: forward of segment {segment.index} (tokens {segment.start} to "
                f"{segment.stop}) out of order: expected tokens from {self._filled} on; "
                f"run segments first to last, each once"
            )
        self.k = _extended(self.k, k_BTGD, segment, view.length)
        self.v = _extended(self.v, v_BTGD, segment, view.length)
        self._filled = segment.stop

    def owe(self, recorded: bool) -> None:
        """Notes that a backward must come, if the forward was recorded for one."""
        self._recorded = self._recorded or recorded

    def end_first(self, view: SegmentView, attended: Attended) -> None:
        """Keeps of a forward that will run again what it is to keep."""
        segment = view.segment
        if view.forward is Forward.SELECTIVE:
            self._attended[segment.index] = attended
        if segment.stop == view.length:
            self._filled = segment.start
            self.k = _shrunk(self.k, segment.start)
            self.v = _shrunk(self.v, segment.start)

    def take_attended(self, view: SegmentView) -> Attended | None:
        """What the first forward has kept of attention, if this is the second."""
        return self._attended.pop(view.segment.index, None)

    def read(self, pieces: Pieces, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values from the first that `pieces` see up to token `stop`."""
        assert self.k is not None, "keys are written before they are read"
        assert self.v is not None, "values are written before they are read"
        seen = (pieces.rows, slice(pieces.first, stop))
        return self.k[seen], self.v[seen]

    def begin_backward(self, view: SegmentView) -> None:
        """Checks that this segment's backward is the next one."""
        segment = view.segment
        left = self._left if self._left >= 0 else view.length
        if segment.stop != left or self._filled != view.length:
            raise RunError(
                f"{self._name}: backward of segment {segment.index} (tokens {segment.start} to "
                f"{segment.stop}) out of order: expected the segment that ends at token {left}, "
                f"after the forward of all {view.length} tokens ({self._filled} have run); "
                f"run segments last to first"
            )

    def settle(self, index: int, pieces: Pieces, segment: Segment, grads: Grads) -> None:
        """Adds what later segments owe to the own gradients; keeps what is owed to earlier ones.

        `index` tells the groups of rows apart.
        """
        dk, dv, dk_past, dv_past = grads[1:]
        due = self._due.pop(index, None)
        if due is not None:
            dk_due, dv_due = due
            past = max(dk_due.shape[1] - segment.tokens, 0)
            own = dk_due.shape[1] - past
            dk[:, segment.tokens - own :] += dk_due[:, past:]
            dv[:, segment.tokens - own :] += dv_due[:, past:]
            if past and dk_past is not None and dv_past is not None:
                dk_past += dk_due[:, :past]
                dv_past += dv_due[:, :past]
        if dk_past is not None and dv_past is not None:
            self._due[index] = (dk_past, dv_past)

    def end_backward(self, segment: Segment) -> None:
        """Notes that all rows of the segment have run backward; frees what nobody reads again."""
        self._left = segment.start
        self.k = _shrunk(self.k, segment.start)
        self.v = _shrunk(self.v, segment.start)

    def close(self) -> None:
        """Frees everything; RunError if the backward of some segment has not run."""
        left = self._left if self._left >= 0 else self._filled
        undrained = self._recorded and left > 0
        self.k = self.v = None
        self._due.clear()
        self._attended.clear()
        if undrained:
            raise RunError(
                f"{self._name}: closed before the backward of its first {left} tokens has run"
            )


def _extended(x: Tensor | None, more_BTGD: Tensor, segment: Segment, length: int) -> Tensor:
    """`x` with the tokens of `segment` written, in a buffer twice as large if it was full."""
    if x is None or x.shape[1] < segment.stop:
        capacity = min(length, max(segment.stop, 2 * x.shape[1])) if x is not None else segment.stop
        larger = more_BTGD.new_empty((more_BTGD.shape[0], capacity, *more_BTGD.shape[2:]))
        if x is not None:
            larger[:, : segment.start] = x[:, : segment.start]
        x = larger
    x[:, segment.start : segment.stop] = more_BTGD
    return x


def _shrunk(x: Tensor | None, needed: int) -> Tensor | None:
    """`x`, or a copy of its first `needed` tokens if these are at most half of it."""
    if x is None or needed == 0:
        return None
    return x[:, :needed].clone() if 2 * needed <= x.shape[1] else x


def attend(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    view: SegmentView,
    store: KVStore,
    kernel: Kernel,
) -> Tensor:
    """Rotates queries and keys, attends to all earlier tokens of the same document; [B, T, H * D].

    Queries and keys come unrotated from their projections (or norms).
    """
    recorded = torch.is_grad_enabled() and q_BTHD.requires_grad
    return _attend(q_BTHD, k_BTGD, v_BTGD, view, store, kernel, recorded)


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BTHD: Tensor,
        k_BTGD: Tensor,
        v_BTGD: Tensor,
        view: SegmentView,
        store: KVStore,
        kernel: Kernel,
        recorded: bool,
    ) -> Tensor:
        q_BTHD = rotate(q_BTHD, view.cosine, view.sine)
        if not store.holds(view):
            store.extend(view, rotate(k_BTGD, view.cosine, view.sine), v_BTGD)
        store.owe(recorded)
        attended = store.take_attended(view) or _attended(q_BTHD, view, store, kernel)
        if view.forward in (Forward.LIGHT, Forward.SELECTIVE):
            store.end_first(view, attended)
        out_BTHD, lses = attended
        ctx.save_for_backward(q_BTHD, out_BTHD, *(x for lse in lses for x in lse))
        ctx.view, ctx.store, ctx.kernel = view, store, kernel
        ctx.lse_counts = [len(lse) for lse in lses]
        return out_BTHD.flatten(2)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q_BTHD, out_BTHD, *lse = ctx.saved_tensors
        view: SegmentView = ctx.view
        store: KVStore = ctx.store
        segment = view.segment
        store.begin_backward(view)
        dout_BTHD = dout.reshape(out_BTHD.shape)
        grads = []
        for index, (pieces, count) in enumerate(zip(view.pieces, ctx.lse_counts, strict=True)):
            rows = pieces.rows
            inputs = Inputs(q_BTHD[rows], *store.read(pieces, segment.stop), pieces.lengths)
            own, lse = tuple(lse[:count]), lse[count:]
            grads.append(ctx.kernel.backward(dout_BTHD[rows], inputs, out_BTHD[rows], own))
            store.settle(index, pieces, segment, grads[-1])
        store.end_backward(segment)
        dq, dk, dv = (_cat_rows([g[i] for g in grads]) for i in range(3))
        dq = rotate_back(dq, view.cosine, view.sine)
        dk = rotate_back(dk, view.cosine, view.sine)
        return dq, dk, dv, None, None, None, None


def _attended(q_BTHD: Tensor, view: SegmentView, store: KVStore, kernel: Kernel) -> Attended:
    outs, lses = [], []
    for pieces in view.pieces:
        k, v = store.read(pieces, view.segment.stop)
        out, lse = kernel.forward(Inputs(q_BTHD[pieces.rows], k, v, pieces.lengths))
        outs.append(out)
        lses.append(lse)
    return _cat_rows(outs), lses


def _cat_rows(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


_attend: Callable[..., Tensor] = _Attend.apply
