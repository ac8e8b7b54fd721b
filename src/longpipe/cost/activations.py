"""Bytes that a stage of our decoder keeps and needs, op by op: a list of tensors, by name.

It follows `longpipe.model` tensor by tensor: a layer keeps its input and the input of its MLP,
the rotated queries, attention's output and log-sum-exp, and the gate and up projections; norms and
the SwiGLU product are made again. Not counted: weights, their gradients, optimizer state, tokens,
labels, rotary tables, receive buffers that no op has taken yet, the allocator's own rounding, and
the wide copies that half precision needs for weight gradients on CPUs.
Packed documents are counted as one: an upper bound, exact for one document.
"""

from dataclasses import dataclass

from longpipe.cost.flops import DecoderShape, StageShape
from longpipe.ir import Kind, Segment

_LOSS_WORDS = 1 << 20  # logits that the loss widens at a time


@dataclass(frozen=True, slots=True)
class Activations:
    """Memory of the ops of one stage for micro-batches of `rows` sequences of `tokens` each.

    `dtype_bytes` is the size of an activation (2 for bfloat16), `grad_bytes` that of a weight's
    gradient. Sums that need it run in at least 4 bytes.
    """

    shape: DecoderShape
    stage: StageShape
    tokens: int
    rows: int = 1
    dtype_bytes: int = 2
    grad_bytes: int = 4

    @property
    def _wide_bytes(self) -> int:
        return max(4, self.dtype_bytes)

    def layer_kept(self) -> int:
        """Per token: what one layer keeps from F until I or B, besides keys and values."""
        s = self.shape
        numbers = (
            2 * s.hidden  # inputs of the two norms
            + 2 * s.query_size  # rotated query, attention output
            + 2 * s.intermediate  # gate, up
        )
        sums = 2 + s.heads  # one over the root mean square, twice; log-sum-exp
        if s.qk_norm:
            numbers += s.query_size + s.kv_size  # before their norms
            sums += s.heads + s.kv_heads
        return numbers * self.dtype_bytes + sums * self._wide_bytes

    def layer_queued(self) -> int:
        """Per token: what one layer's weight gradients wait with, from I until W.

        Inputs: normalised (twice), attention output, SwiGLU product. Output gradients: query,
        key, value, attention projection, gate, up, down.
        """
        s = self.shape
        inputs = 2 * s.hidden + s.query_size + s.intermediate
        gradients = s.query_size + 2 * s.kv_size + 2 * s.intermediate + 2 * s.hidden
        return (inputs + gradients) * self.dtype_bytes

    def head_kept(self) -> int:
        """Per token: input of the last norm, its root mean square, and the logits."""
        if not self.stage.last:
            return 0
        return (self.shape.hidden + self.shape.vocab) * self.dtype_bytes + self._wide_bytes

    def head_queued(self) -> int:
        """Per token: the head's input and the gradient of the logits, which took their place."""
        return (self.shape.hidden + self.shape.vocab) * self.dtype_bytes if self.stage.last else 0

    def kept(self, segment: Segment) -> int:
        """What the stage keeps of a segment from its F until its I or B."""
        per_token = self.stage.layers * self.layer_kept() + self.head_kept()
        return per_token * segment.tokens * self.rows

    def queued(self, segment: Segment) -> int:
        """What the weight queue keeps of a segment from its I until its W."""
        per_token = self.stage.layers * self.layer_queued() + self.head_queued()
        return per_token * segment.tokens * self.rows

    def layer_kv(self, tokens: int) -> int:
        """Keys and values of one layer (or their gradients) over `tokens`."""
        return 2 * self.shape.kv_size * self.dtype_bytes * tokens * self.rows

    def holds(self, kind: Kind, segment: Segment) -> int:
        """Bytes that stay after an op (negative: that it frees).

        The keys and values of the whole sequence are allocated by the first segment's F and freed
        by its I or B. The backward of a segment leaves the gradients of all keys and values before
        it, and takes over those that the segment after has left.
        """
        if kind is Kind.W:
            return -self.queued(segment)
        layers = self.stage.layers
        whole_kv = layers * self._whole_kv(segment)
        if kind is Kind.F:
            return self.kept(segment) + whole_kv
        owed = layers * self._owed(segment)
        queued = self.queued(segment) if kind is Kind.I else 0
        return queued + owed - self.kept(segment) - whole_kv

    def scratch(self, kind: Kind, segment: Segment) -> int:
        """Bytes at an op's peak above what was held before it."""
        if kind is Kind.W:
            return self._wide_product()
        if kind is Kind.F:
            return self._forward_peak(segment)
        return self._backward_peak(kind, segment)

    def _forward_peak(self, segment: Segment) -> int:
        """All that is kept, and in the last layer the SwiGLU product and the stage's output."""
        n = segment.tokens * self.rows
        head = self.head_kept() * n
        last_layer = (self.shape.intermediate + self.shape.hidden) * self.dtype_bytes * n
        body = self.holds(Kind.F, segment) - head
        return body + max(last_layer, head + self._loss_scratch(n, 2))

    def _backward_peak(self, kind: Kind, segment: Segment) -> int:
        """The larger of the loss's peak and that of the layers, which go last to first."""
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        split = kind is Kind.I
        per_layer = self._owed(segment) - self.layer_kept() * n - self._whole_kv(segment)
        if split:
            per_layer += self.layer_queued() * n
        # SwiGLU: gradients of the output, the gate, the up projection and of their product, which
        # itself stays too if its weight gradient waits. Norm before it: gradient of the output,
        # and four tensors of its size for the norm's own backward, two of them wide.
        product = split * s.intermediate * size
        swiglu = ((s.hidden + 3 * s.intermediate) * size + product) * n
        norm = (s.hidden * (3 * size + 2 * self._wide_bytes) + product) * n
        body = max(swiglu, norm, self._attention_peak(split, segment)) + self._wide_product()
        body += max((self.stage.layers - 1) * per_layer, 0)
        body += (self.head_queued() * split - self.head_kept()) * n
        head = self._head_scratch(n) if self.stage.last else 0
        return max(body, head, 0)

    def _attention_peak(self, split: bool, segment: Segment) -> int:
        """The last layer's attention, in the kernel over the prefix or while turning back.

        Both hold the gradients of the layer's output (which the caller or the queue keeps, but not
        the head), of the attention unit's output, and of the queries. By then the MLP's tensors
        are freed, or wait in the queue.
        """
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        mlp = -(s.hidden + 2 * s.intermediate) * size * n - self._wide_bytes * n
        if split:
            mlp += (s.hidden + 3 * s.intermediate) * size * n
        outputs = 2 if split or not self.stage.last else 1
        both = (outputs * s.hidden + 2 * s.query_size) * size * n
        kernel = s.query_size * size * n + self.layer_kv(segment.stop)
        turning = max(2 * s.query_size + 2 * s.kv_size, s.query_size + 4 * s.kv_size) * size * n
        return mlp + both + max(kernel, turning + self._owed(segment))

    def _owed(self, segment: Segment) -> int:
        """Growth of one layer's gradients of earlier keys and values, by a segment's backward."""
        taken = self.layer_kv(segment.stop) if segment.stop < self.tokens else 0
        return self.layer_kv(segment.start) - taken

    def _whole_kv(self, segment: Segment) -> int:
        """Keys and values of one layer, where the segment is the one that allocates and frees."""
        return self.layer_kv(self.tokens) if segment.start == 0 else 0

    def _loss_scratch(self, n: int, narrow_copies: int) -> int:
        """A softmax over one piece of the logits; narrow logits need wide copies besides."""
        if not self.stage.last:
            return 0
        piece = min(n, max(1, _LOSS_WORDS // self.shape.vocab)) * self.shape.vocab
        copies = 1 if self.dtype_bytes == self._wide_bytes else narrow_copies
        return piece * copies * self._wide_bytes

    def _head_scratch(self, n: int) -> int:
        """The loss's backward, or the head's: norm without and with weight, their gradient."""
        s = self.shape
        norm = (2 * s.hidden * self.dtype_bytes + s.hidden * self._wide_bytes) * n
        return max(self._loss_scratch(n, 3), norm + self._wide_product())

    def _wide_product(self) -> int:
        """A weight's gradient made apart, where it is wider than the activations."""
        if self.dtype_bytes >= self.grad_bytes:
            return 0
        s = self.shape
        outputs = [s.query_size, s.intermediate] + [s.vocab] * self.stage.last
        return s.hidden * max(outputs) * self.grad_bytes
