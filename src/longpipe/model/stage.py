"""A stage: a run of decoder layers, perhaps with the embedding before or the head after it.

Shapes: B rows, S tokens of a sequence, T of a segment, E hidden size.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from longpipe.errors import PlanError, RunError
from longpipe.ir import Segment
from longpipe.model.attention import Forward, KVStore, SegmentView
from longpipe.model.batch import MicroBatch, pieces_of, positions_of
from longpipe.model.config import DecoderConfig
from longpipe.model.decoder import DecoderLayer
from longpipe.model.functions import embed, norm_project
from longpipe.model.init import initialise
from longpipe.model.linear import Build, Linear, WeightQueue
from longpipe.model.loss import head_loss
from longpipe.model.norm import RMSNorm
from longpipe.model.rope import RotaryTable


class BatchState:
    """What a stage remembers of one micro-batch between the ops on its segments."""

    def __init__(self, batch: MicroBatch, names: tuple[str, ...]) -> None:
        self.batch = batch
        self.stores = tuple(map(KVStore, names))
        self._views: dict[Segment, SegmentView] = {}

    def view(self, segment: Segment, table: RotaryTable, like: Tensor) -> SegmentView:
        """Documents and rotary angles of a segment, made at its forward."""
        if segment not in self._views:
            starts = self.batch.starts
            length = self.batch.tokens.shape[1]
            if not 0 <= segment.start < segment.stop <= length:
                raise RunError(f"{segment} is not a part of a sequence of {length} tokens")
            cosine, sine = table.upto(length, like)
            if all(row == (0,) for row in starts):
                seen: slice | Tensor = slice(segment.start, segment.stop)
            else:
                rows = starts[:1] if len(set(starts)) == 1 else starts
                seen = torch.tensor([positions_of(row, segment) for row in rows])
                seen = seen.to(like.device)
            pieces = pieces_of(starts, segment)
            self._views[segment] = SegmentView(segment, pieces, cosine[seen], sine[seen], length)
        return self._views[segment]


class _Body(nn.Module):
    """What Hugging Face names `model.*`; only the layers are on every stage."""

    embed_tokens: Linear
    layers: nn.ModuleDict
    norm: RMSNorm


class DecoderStage(nn.Module):
    """Layers `layers` of the model, with the embedding if `first` and norm and head if `last`.

    Parameters carry Hugging Face's global names, so that a checkpoint does not depend on how the
    model is split. With tied embeddings a last stage that is not also the first holds a second
    `model.embed_tokens.weight` as its head; see `longpipe.model.split.ties`.

    Backward adds gradients to each `parameter.grad` itself. Within `weight_queue.defer(key)` the
    products for the weights of linear layers wait for `weight_queue.run(key)`.

    A segment may run `light`, and `again` before its backward. With `keeps_attention` the first of
    these keeps attention's outputs, so that the second runs the linear layers alone.
    """

    lm_head: Linear

    def __init__(
        self,
        config: DecoderConfig,
        layers: range,
        first: bool = True,
        last: bool = True,
        build: Build | None = None,
    ) -> None:
        super().__init__()
        build = build or Build()
        if layers.step != 1 or layers.start < 0 or layers.stop > config.layers:
            raise PlanError(f"stage: {layers} are not among the {config.layers} layers in a row")
        self.config = config
        self.weight_queue = WeightQueue()
        self.first, self.last = first, last
        self.keeps_attention = False
        self.compute_dtype = build.compute_dtype
        self._table = RotaryTable(config.rope, config.head_dim, config.max_positions)
        self._names = tuple(f"layer {number}" for number in layers)
        self.model = _Body()
        if first or (last and config.tied):
            self.model.embed_tokens = Linear(config.hidden, config.vocab, False, build)
        self.model.layers = nn.ModuleDict(
            {str(number): DecoderLayer(config, self.weight_queue, build) for number in layers}
        )
        if last:
            self.model.norm = RMSNorm(config.hidden, config.rms_eps, build)
            if not config.tied:
                self.lm_head = Linear(config.hidden, config.vocab, False, build)
        self._layers = tuple(self.model.layers.values())
        if build.seed is not None:
            initialise(self, config.init_std, build.seed)

    def open(self, batch: MicroBatch) -> BatchState:
        """State for one micro-batch: empty key-value stores, allocated at the first forward."""
        return BatchState(batch, self._names)

    def forward(self, x_BTE: Tensor | None, state: BatchState, segment: Segment) -> Tensor:
        """The stage over one segment.

        `x_BTE` is the output of the stage before, `None` on the first. Returns [B, T, E]; on the
        last stage the sum of the segment's token losses (a scalar in at least float32), or the
        logits [B, T, V] if the micro-batch has no labels.
        """
        return self._run(x_BTE, state, segment, Forward.ONLY)

    def light(self, x_BTE: Tensor | None, state: BatchState, segment: Segment) -> Tensor:
        """As `forward`, without what the backward reads; keys and values stay for later segments.

        The result has no history.
        """
        kept = Forward.SELECTIVE if self.keeps_attention else Forward.LIGHT
        with torch.no_grad():
            return self._run(x_BTE, state, segment, kept)

    def again(self, x_BTE: Tensor | None, state: BatchState, segment: Segment) -> Tensor:
        """As `forward`, for a segment that has run `light`; the last stage's loss comes out 0."""
        return self._run(x_BTE, state, segment, Forward.AGAIN)

    def _run(
        self, x_BTE: Tensor | None, state: BatchState, segment: Segment, forward: Forward
    ) -> Tensor:
        here = slice(segment.start, segment.stop)
        if self.first:
            tokens_BT = state.batch.tokens[:, here]
            x_BTE = embed(tokens_BT, self.model.embed_tokens.weight, self.compute_dtype)
        if x_BTE is None:
            raise RunError("stage: only the first stage of a model runs without an input")
        view = replace(state.view(segment, self._table, x_BTE), forward=forward)
        for layer, store in zip(self._layers, state.stores, strict=True):
            x_BTE = layer(x_BTE, view, store)
        if not self.last:
            return x_BTE
        labels = state.batch.labels
        if labels is None:
            return norm_project(x_BTE, self.model.norm, (self.head,), self.weight_queue)[0]
        norm, known = self.model.norm, forward is Forward.AGAIN
        return head_loss(x_BTE, labels[:, here], norm, self.head, self.weight_queue, known)

    @property
    def head(self) -> Linear:
        """Projection to the vocabulary: `lm_head`, or the embedding's weight where tied."""
        return self.model.embed_tokens if self.config.tied else self.lm_head

    def refresh_compute_weights(self) -> None:
        """Copies parameters to the compute type anew; to be called after every change of them."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.refresh()

    def close(self, state: BatchState) -> None:
        """Frees the micro-batch's stores; RunError if the backward of a segment is missing."""
        for store in state.stores:
            store.close()


class WholeSequence(nn.Module):
    """A stage as a plain module over whole sequences of one document each.

    For use where no segments are wanted: evaluation, or other pipeline runtimes.
    """

    def __init__(self, stage: DecoderStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Tokens [B, S] (first stage) or activations [B, S, E] to activations, logits or loss."""
        # Beyond the first stage only the shape of the tokens is read.
        shape = x.shape[:2]
        tokens = x if self.stage.first else torch.empty(shape, dtype=torch.int64, device="meta")
        state = self.stage.open(MicroBatch.whole(tokens, labels))
        segment = Segment(0, 0, shape[1])
        out: Tensor = self.stage(None if self.stage.first else x, state, segment)
        return out
