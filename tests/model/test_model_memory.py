"""What a segment's forward keeps until its backward, to the byte."""

import gc
import weakref
from dataclasses import replace

import torch
from segment_runs import BASE, make_batch, make_stages

from longpipe.ir import segments_from_lengths
from longpipe.model import Build, DecoderStage, WholeSequence

torch.set_num_threads(1)


class SavedStorages:
    """Storages that autograd saves inside, each counted once; parameters left out."""

    def __init__(self, module):
        self._known = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._sizes = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)

    def _pack(self, x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return x

    def __enter__(self):
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    @property
    def elements(self):
        return sum(self._sizes.values()) // 8


def test_saved_per_layer_and_token():
    """Two inputs, query and attention output, gate and up, and three statistics."""
    c, tokens = BASE, 24
    middle = DecoderStage(c, range(1), first=False, last=False, build=Build(torch.float64))
    batch = make_batch(c, 1, tokens)
    segment = segments_from_lengths([tokens])[0]
    x = torch.randn(1, tokens, c.hidden, dtype=torch.float64, requires_grad=True)
    with SavedStorages(middle) as saved:
        middle(x, middle.open(batch), segment)
    inner = c.heads * c.head_dim
    per_token = 2 * c.hidden + 2 * inner + 2 * c.intermediate + (2 + c.heads)
    assert saved.elements == per_token * tokens


def test_keys_and_values_go_with_the_backward_of_the_first_segment():
    (stage,) = make_stages(BASE, [range(2)])
    state = stage.open(make_batch(BASE, 1, 20))
    segments = segments_from_lengths([12, 8])
    losses = [stage(None, state, segment) for segment in segments]
    assert all(store.k.shape[1] == 20 for store in state.stores)
    losses[1].backward()
    owed = [store._due[0][0].shape[1] for store in state.stores]
    assert owed == [12, 12]  # only the tokens before the segment
    losses[0].backward()
    assert all(store.k is None and not store._due for store in state.stores)


def test_no_cycle_keeps_a_graph_alive():
    (stage,) = make_stages(BASE, [range(2)])
    batch = make_batch(BASE, 1, 8)
    gc.collect()
    gc.disable()
    try:
        state = stage.open(batch)
        segment = segments_from_lengths([8])[0]
        loss = stage(None, state, segment)
        store = weakref.ref(state.stores[0].k)
        del state, loss
        assert store() is None
    finally:
        gc.enable()


def test_whole_sequence_is_a_plain_module():
    first, last = make_stages(BASE, [range(1), range(1, 2)])
    batch = make_batch(BASE, 2, 16)
    hidden = WholeSequence(first)(batch.tokens)
    loss = WholeSequence(last)(hidden, batch.labels)
    loss.backward()
    assert WholeSequence(last)(hidden.detach()).shape == (2, 16, BASE.vocab)
    assert all(p.grad is not None for p in first.parameters())


def test_keys_and_values_take_the_room_of_the_tokens_in_flight():
    """Never more than twice the tokens between their forward and their backward."""
    (stage,) = make_stages(BASE, [range(2)])
    state = stage.open(make_batch(BASE, 1, 32))
    segments = segments_from_lengths([4] * 8)
    losses, room = [], []
    for segment in segments:
        losses.append(stage(None, state, segment))
        room.append(state.stores[0].k.shape[1])
    assert room == [4, 8, 16, 16, 32, 32, 32, 32]
    room = []
    for loss in reversed(losses[1:]):
        loss.backward()
        room.append(state.stores[1].v.shape[1])
    assert room == [32, 32, 32, 16, 16, 8, 4]


def test_no_logits_are_kept():
    """The last stage keeps no more for its head than the input of the final norm."""
    config = replace(BASE, vocab=5000, layers=1)
    (stage,) = make_stages(config, [range(1)])
    state = stage.open(make_batch(config, 1, 20))
    with SavedStorages(stage) as saved:
        stage(None, state, segments_from_lengths([20])[0])
    inner, hidden = config.heads * config.head_dim, config.hidden
    per_token = 3 * hidden + 2 * inner + 2 * config.intermediate + (3 + config.heads)
    assert saved.elements == (per_token + 2) * 20  # and tokens and labels
