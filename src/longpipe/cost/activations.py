"""Bytes that a stage of our decoder keeps and needs, op by op: a list of tensors, by name.

It follows `longpipe.model` tensor by tensor: a layer keeps its input and the input of its MLP,
the rotated queries, attention's output and log-sum-exp, and the gate and up projections; norms and
the SwiGLU product are made again. The head keeps the input of its norm; logits are made a few
rows at a time, and again in the backward.
Not counted: weights, their gradients, optimizer state, tokens, labels, rotary tables, receive
buffers that no op has taken yet, the allocator's own rounding, and the wide copies that half
precision needs on CPUs (for weight gradients, and to join attention over a prefix with the rest).
Packed documents are counted as one: an upper bound, exact for one document.
"""

from dataclasses import dataclass

from longpipe.cost.flops import DecoderShape, StageShape
from longpipe.ir import Kind, Memory, Segment

# Logits that the loss works on at a time, but never fewer rows than this.
_CHUNK_WORDS, _CHUNK_ROWS = 1 << 20, 256


@dataclass(frozen=True, slots=True)
class Activations:
    """Memory of the ops of one stage for micro-batches of `rows` sequences cut into `segments`.

    The segments are all of a sequence, in order: how much room an op finds for keys and values
    depends on those before it. `dtype_bytes` is the size of an activation (2 for bfloat16),
    `grad_bytes` that of a weight's gradient. Sums that need it run in at least 4 bytes. With
    `keeps_attention` a light forward keeps attention's outputs, so that R makes all but these.
    """

    shape: DecoderShape
    stage: StageShape
    segments: tuple[Segment, ...]
    rows: int = 1
    dtype_bytes: int = 2
    grad_bytes: int = 4
    keeps_attention: bool = False

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
        """Per token: input of the last norm and its root mean square."""
        if not self.stage.last:
            return 0
        return self.shape.hidden * self.dtype_bytes + self._wide_bytes

    def head_queued(self) -> int:
        """Per token: the head's input and the gradient of the logits."""
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

        Room for keys and values doubles when it is full and shrinks when half of it is enough.
        The backward of a segment leaves the gradients of all keys and values before it, and takes
        over those that the segment after has left.
        """
        if kind is Kind.W:
            return -self.queued(segment)
        if kind is Kind.R:
            return int(self.holds(Kind.F, segment) - self.light(segment).holds)
        room = self.stage.layers * self._room_growth(kind, segment)
        if kind is Kind.F:
            return self.kept(segment) + room
        owed = self.stage.layers * self._owed(segment)
        queued = self.queued(segment) if kind is Kind.I else 0
        return queued + owed - self.kept(segment) + room

    def scratch(self, kind: Kind, segment: Segment) -> int:
        """Bytes at an op's peak above what was held before it."""
        if kind is Kind.W:
            return max(self._layer_product(), self._head_product())
        if kind in (Kind.F, Kind.R):
            return self._forward_peak(segment, again=kind is Kind.R)
        return self._backward_peak(kind, segment)

    def light(self, segment: Segment) -> Memory:
        """Of an F that keeps what R needs: its input (the first stage reads tokens), perhaps
        attention's outputs; and keys and values, but for the last segment, which no other reads.
        """
        (input_, each), (before, after) = self._light_kept(segment), self._light_room(segment)
        held = input_ + self.stage.layers * (each + self.layer_kv(after) - self.layer_kv(before))
        return Memory(held, max(held, self._light_peak(segment)))

    def _light_kept(self, segment: Segment) -> tuple[int, int]:
        """What a light F keeps, besides keys and values: its input, and of each layer."""
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        attention = s.query_size * size + s.heads * self._wide_bytes
        return (not self.stage.first) * s.hidden * size * n, self.keeps_attention * attention * n

    def _light_room(self, segment: Segment) -> tuple[int, int]:
        """Tokens that one layer's store has room for, before and after a light F."""
        before, after = self._room(Kind.F, segment)
        if segment.stop == self.segments[-1].stop and 2 * segment.start <= after:
            after = segment.start
        return before, after

    def _light_peak(self, segment: Segment) -> int:
        """The last layer's tensors, beside what stays of those before it; or the loss.

        Both units: the layer's input. MLP: its input, gate, up, product, output. Attention: query,
        key, value, the query rotated, and the output (over prefix and segment) or, while the
        values move to a larger buffer, the keys rotated and both buffers.
        """
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        input_, each = self._light_kept(segment)
        before, after = self._room(Kind.F, segment)
        room = self.layer_kv(after) - self.layer_kv(before)
        moved = self.layer_kv(before) // 2 if room else 0
        stays = each + self.layer_kv(self._light_room(segment)[1]) - self.layer_kv(before)
        own = (self.stage.first or self.stage.layers > 1) * s.hidden * size * n
        mlp = (2 * s.hidden + 3 * s.intermediate) * size * n + stays
        parts, sums = (2, 5) if segment.start else (1, 1)  # of the output, of log-sum-exp
        kernel = (parts * s.query_size * size + sums * s.heads * self._wide_bytes) * n
        moving = s.kv_size * size * n + moved
        attention = 2 * (s.query_size + s.kv_size) * size * n + room + max(kernel, moving)
        loss = self._loss_forward(n) + self.stage.last * self._wide_bytes * n
        count = self.stage.layers
        if not count:
            return input_ + loss
        loss = self.stage.last * (count * stays + s.hidden * size * n + loss)
        return input_ + max((count - 1) * stays + own + max(mlp, attention), loss)

    def _forward_peak(self, segment: Segment, again: bool = False) -> int:
        """All that is kept, and the last layer's MLP, its growing keys and values, or the loss.

        Of a forward that runs `again`, what lies above that which its light F has kept.
        """
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        before, after = self._room(Kind.F, segment)
        head, loss = self.head_kept() * n, self._loss_forward(n)
        input_ = each = 0
        if again:
            before, (input_, each) = self._light_room(segment)[1], self._light_kept(segment)
            copies = 2 * self._wide_bytes * (size < self._wide_bytes)
            loss = self.stage.last * s.hidden * (size + copies) * n  # its norm alone
        room = self.layer_kv(after) - self.layer_kv(before)
        body = self.kept(segment) - head - input_ + self.stage.layers * (room - each)
        mlp = (s.intermediate + s.hidden) * size * n  # SwiGLU product, output of the stage
        # While the values move to a larger buffer: queries, keys and values unrotated, keys
        # rotated. Attention's output (if not kept) and the MLP's tensors are yet to come.
        moved = self.layer_kv(before) // 2 if after > before else 0
        missing = s.hidden + 2 * s.intermediate
        sums = (1 + s.heads) * self._wide_bytes
        growing = ((3 * s.kv_size - missing) * size - sums) * n + moved + each
        return body + max(max(mlp, growing) if self.stage.layers else 0, head + loss)

    def _backward_peak(self, kind: Kind, segment: Segment) -> int:
        """The larger of the loss's peak and that of the layers, which go last to first."""
        s, n, size = self.shape, segment.tokens * self.rows, self.dtype_bytes
        split = kind is Kind.I
        per_layer = self._owed(segment) - self.layer_kept() * n + self._room_growth(kind, segment)
        if split:
            per_layer += self.layer_queued() * n
        # SwiGLU: gradients of the output, the gate, the up projection and of their product, which
        # itself stays too if its weight gradient waits. Norm before it: gradient of the output,
        # and four tensors of its size for the norm's own backward, two of them wide.
        product = split * s.intermediate * size
        swiglu = ((s.hidden + 3 * s.intermediate) * size + product) * n
        norm = (s.hidden * (3 * size + 2 * self._wide_bytes) + product) * n
        body = max(swiglu, norm, self._attention_peak(split, segment)) + self._layer_product()
        body += max((self.stage.layers - 1) * per_layer, 0)
        body += (self.head_queued() * split - self.head_kept()) * n
        head = self._loss_backward(n, split)
        return max(body if self.stage.layers else 0, head)

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
        # A smaller copy of the keys and values, beside those that the kernel has read.
        before, after = self._room(Kind.B, segment)
        copies = self.layer_kv(after) if after < before else 0
        return mlp + both + max(kernel, turning + self._owed(segment) + copies)

    def _owed(self, segment: Segment) -> int:
        """Growth of one layer's gradients of earlier keys and values, by a segment's backward."""
        taken = self.layer_kv(segment.stop) if segment.stop < self.segments[-1].stop else 0
        return self.layer_kv(segment.start) - taken

    def _room(self, kind: Kind, segment: Segment) -> tuple[int, int]:
        """Tokens that one layer's key-value store has room for, before and after F, or I or B."""
        length, before, room = self.segments[-1].stop, 0, 0
        for each in self.segments:
            before = room
            if room < each.stop:
                room = min(length, max(each.stop, 2 * room))
            if kind is Kind.F and each.index == segment.index:
                return before, room
        for each in reversed(self.segments):
            before = room
            if 2 * each.start <= room:
                room = each.start
            if each.index == segment.index:
                break
        return before, room

    def _room_growth(self, kind: Kind, segment: Segment) -> int:
        """Bytes by which F, or I or B, grows one layer's keys and values (negative: shrinks)."""
        before, after = self._room(kind, segment)
        return self.layer_kv(after) - self.layer_kv(before)

    def _chunks(self, n: int) -> list[tuple[int, int]]:
        """First row and number of rows of each piece of `n` that the loss works on."""
        step = max(_CHUNK_ROWS, _CHUNK_WORDS // self.shape.vocab)
        return [(start, min(step, n - start)) for start in range(0, n, step)]

    def _loss_forward(self, n: int) -> int:
        """The normalised input; logits and their log-softmax, or the next piece's logits."""
        if not self.stage.last:
            return 0
        size, wide = self.dtype_bytes, self._wide_bytes
        (_, first), *rest = self._chunks(n)
        logits = 2 * first * wide
        if rest and size < wide:  # the next are made and widened before the former are let go
            logits = max(logits, first * wide + rest[0][1] * (size + wide))
        return self.shape.hidden * size * n + self.shape.vocab * logits

    def _loss_backward(self, n: int, split: bool) -> int:
        """The larger of the peaks of the pieces and that of the norm's backward."""
        if not self.stage.last:
            return 0
        s, size, wide = self.shape, self.dtype_bytes, self._wide_bytes
        softmax = size + wide * (2 if size < wide else 1)  # logits (narrow: a wide copy), softmax
        product = 0 if split else self._head_product()
        peak = former = 0
        for start, rows in self._chunks(n):
            # Gradients of the logits: all wait for W, or the former is let go for the next.
            waiting = (start if split else former) * s.vocab * size + start * s.hidden * size
            made = (start if split else 0) * s.vocab * size + rows * s.vocab * size
            made += (start + rows) * s.hidden * size + product
            peak, former = max(peak, waiting + rows * s.vocab * softmax, made), rows
        # The norm without and with its weight. At last its output's gradient in pieces and whole,
        # one of them or both wide, and its product with the norm.
        norm = (n if split else former) * s.vocab * size + n * s.hidden * (size + 2 * wide)
        return n * s.hidden * (size + wide) + max(peak, norm)

    def _layer_product(self) -> int:
        """Gradient of a layer's weight, made apart where it is wider than the activations."""
        return self._product(max(self.shape.query_size, self.shape.intermediate))

    def _head_product(self) -> int:
        """The same of the head's weight."""
        return self._product(self.shape.vocab) if self.stage.last else 0

    def _product(self, outputs: int) -> int:
        return self.shape.hidden * outputs * self.grad_bytes * (self.dtype_bytes < self.grad_bytes)
