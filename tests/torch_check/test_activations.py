"""The predicted bytes of every op are those that the decoder really holds and needs."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longpipe.cost import Activations, DecoderShape, StageShape
from longpipe.ir import Kind, Segment, segments_from_lengths
from longpipe.model.batch import MicroBatch
from longpipe.model.config import DecoderConfig
from longpipe.model.linear import Build
from longpipe.model.stage import DecoderStage

TOKENS = 512
CONFIG = DecoderConfig(64, 3, heads=4, kv_heads=2, head_dim=16, intermediate=176, vocab=900)
QK_NORM = DecoderConfig(
    64, 3, heads=4, kv_heads=2, head_dim=16, intermediate=176, vocab=900,
    qk_norm=True, model_type="qwen3",
)  # fmt: skip
WIDE_KV = DecoderConfig(64, 3, heads=4, kv_heads=4, head_dim=16, intermediate=64, vocab=900)
# The loss takes two pieces for 512 tokens, the second of them shorter for 400.
WIDE_HEAD = DecoderConfig(64, 3, heads=4, kv_heads=2, head_dim=16, intermediate=176, vocab=5000)


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators made and that still live, and their peak."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        owned = [tensor for p in module.parameters() for tensor in (p, p.grad)]
        self._seen = {tensor.untyped_storage()._cdata for tensor in owned}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class Run:
    """One micro-batch through a stage, op by op, measured."""

    def __init__(self, config: DecoderConfig, shape: StageShape, dtype: Any) -> None:
        self.stage = DecoderStage(
            config, range(shape.layers), shape.first, shape.last, Build(dtype=dtype)
        )
        for parameter in self.stage.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.config, self.dtype = config, dtype
        tokens = torch.randint(0, config.vocab, (1, TOKENS))
        self.state = self.stage.open(MicroBatch.whole(tokens, tokens))
        self.edges: dict[int, Any] = {}
        self.inputs: dict[int, Any] = {}
        self.live = LiveBytes(self.stage)
        with self.live:  # makes the rotary table, which is not counted, and nothing that stays
            self.forward(Segment(0, 0, TOKENS), self.stage.open(self.state.batch))

    def forward(self, segment: Segment, state: Any) -> Any:
        x = None
        if not self.stage.first:
            x = torch.randn(1, segment.tokens, self.config.hidden, dtype=self.dtype)
            x.requires_grad_()
        y = self.stage(x, state, segment)
        return torch.autograd.graph.get_gradient_edge(y), tuple(y.shape), x

    def light(self, segment: Segment) -> None:
        x = None
        if not self.stage.first:
            x = torch.randn(1, segment.tokens, self.config.hidden, dtype=self.dtype)
        self.stage.light(x, self.state, segment)
        self.inputs[segment.index] = x

    def again(self, segment: Segment) -> None:
        x = self.inputs.pop(segment.index)
        y = self.stage.again(x if x is None else x.requires_grad_(), self.state, segment)
        edge = torch.autograd.graph.get_gradient_edge(y)
        self.edges[segment.index] = edge, tuple(y.shape), x

    def op(self, kind: Kind, segment: Segment, light: bool = False) -> tuple[int, int]:
        """Run one op; bytes held after it and at its peak, above those before."""
        before = self.live.peak = self.live.now
        queue = self.stage.weight_queue
        with self.live:
            if light:
                self.light(segment)
            elif kind is Kind.R:
                self.again(segment)
            elif kind is Kind.F:
                self.edges[segment.index] = self.forward(segment, self.state)
            elif kind is Kind.W:
                queue.run(segment.index)
            elif kind is Kind.I:
                with queue.defer(segment.index):
                    self.backward(segment)
            else:
                self.backward(segment)
        return self.live.now - before, self.live.peak - before

    def backward(self, segment: Segment) -> None:
        edge, shape, x = self.edges.pop(segment.index)
        gradient = torch.ones(shape, dtype=self.dtype)
        torch.autograd.backward((edge,), (gradient,))
        if x is not None:
            x.grad = None


@pytest.mark.parametrize("split", [False, True], ids=["B", "I and W"])
@pytest.mark.parametrize(
    "lengths", [(220, 160, 132), (TOKENS,), (400, 56, 56), (32,) * 16], ids=str
)
@pytest.mark.parametrize(
    "config",
    [CONFIG, QK_NORM, WIDE_KV, WIDE_HEAD],
    ids=["plain", "qk_norm", "wide_kv", "wide_head"],
)
@pytest.mark.parametrize(
    "shape",
    [StageShape(3), StageShape(2, first=True), StageShape(3, last=True), StageShape(0, last=True)],
    ids=["middle", "first", "last", "head"],
)
def test_predicted_bytes_are_the_real_ones(
    shape: StageShape, config: DecoderConfig, lengths: tuple[int, ...], split: bool
) -> None:
    torch.set_num_threads(1)
    sizes = DecoderShape.from_hf(config.to_hf())
    segments = segments_from_lengths(lengths)
    predicted = Activations(sizes, shape, segments, rows=1, dtype_bytes=4, grad_bytes=4)
    run = Run(config, shape, torch.float32)
    order = [(Kind.F, segment) for segment in segments]
    order += [(Kind.I if split else Kind.B, segment) for segment in reversed(segments)]
    if split:
        order += [(Kind.W, segment) for segment in reversed(segments)]
    for kind, segment in order:
        held, peak = run.op(kind, segment)
        close = predicted.kept(segment) // 100  # one per cent of what the segment keeps
        assert held == pytest.approx(predicted.holds(kind, segment), abs=close), (kind, segment)
        if kind is not Kind.W:
            assert peak == pytest.approx(predicted.scratch(kind, segment), rel=0.03, abs=close)
        if kind is Kind.I and len(segments) == 1:
            assert run.stage.weight_queue.pending_bytes == predicted.queued(segment)


@pytest.mark.parametrize("keeps_attention", [False, True], ids=["full", "selective"])
@pytest.mark.parametrize(
    "lengths", [(220, 160, 132), (TOKENS,), (256, 256), (400, 56, 56), (32,) * 16], ids=str
)
@pytest.mark.parametrize(
    "config",
    [CONFIG, QK_NORM, WIDE_KV, WIDE_HEAD],
    ids=["plain", "qk_norm", "wide_kv", "wide_head"],
)
@pytest.mark.parametrize(
    "shape",
    [
        StageShape(3),
        StageShape(1),
        StageShape(2, first=True),
        StageShape(3, last=True),
        StageShape(0, last=True),
    ],
    ids=["middle", "one layer", "first", "last", "head"],
)
def test_predicted_bytes_of_recompute_are_the_real_ones(
    shape: StageShape, config: DecoderConfig, lengths: tuple[int, ...], keeps_attention: bool
) -> None:
    torch.set_num_threads(1)
    sizes = DecoderShape.from_hf(config.to_hf())
    segments = segments_from_lengths(lengths)
    predicted = Activations(
        sizes, shape, segments, rows=1, dtype_bytes=4, grad_bytes=4, keeps_attention=keeps_attention
    )
    run = Run(config, shape, torch.float32)
    run.stage.keeps_attention = keeps_attention
    for segment in segments:
        held, peak = run.op(Kind.F, segment, light=True)
        close = predicted.kept(segment) // 100
        wanted = predicted.light(segment)
        assert held == pytest.approx(wanted.holds, abs=close), segment
        assert peak == pytest.approx(wanted.scratch, rel=0.03, abs=close), segment
    for segment in reversed(segments):
        for kind in (Kind.R, Kind.B):
            held, peak = run.op(kind, segment)
            close = predicted.kept(segment) // 100
            assert held == pytest.approx(predicted.holds(kind, segment), abs=close), (kind, segment)
            assert peak == pytest.approx(predicted.scratch(kind, segment), rel=0.03, abs=close), (
                kind,
                segment,
            )
