"""A segment run light and then again gives, bit for bit, the gradients of running it once."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from segment_runs import BASE, CONFIGS, gradients, make_batch, make_stages, replaced, run_segments

from longpipe.errors import RunError
from longpipe.ir import segments_from_lengths
from longpipe.model import Build, DecoderStage, attention, decoder, loss
from longpipe.model.kernels import Kernel, kernel_for

torch.set_num_threads(1)

LENGTHS = [[96], [48, 48], [40, 30, 20, 6], [7, 50, 1, 38]]
PACKED = {
    "one": [(0,), (0,)],
    "alike": [(0, 20, 63), (0, 20, 63)],
    "different": [(0, 7, 8, 80), (0, 40)],
}


class Twice:
    """A micro-batch through stages, every forward light and then again."""

    def __init__(self, stages, batch, lengths):
        self.stages, self.segments = stages, segments_from_lengths(lengths)
        self.states = [stage.open(batch) for stage in stages]
        self.inputs, self.outputs = {}, {}

    def light(self, index: int) -> torch.Tensor:
        x = None
        for number, stage in enumerate(self.stages):
            self.inputs[index, number] = x
            x = stage.light(x, self.states[number], self.segments[index])
            assert x.grad_fn is None
        return x

    def again(self, index: int) -> None:
        for number, stage in enumerate(self.stages):
            x = self.inputs[index, number]
            x = None if x is None else x.requires_grad_()
            y = stage.again(x, self.states[number], self.segments[index])
            self.outputs[index, number] = y

    def backward(self, index: int, split: bool) -> None:
        gradient = None
        for number, stage in reversed(list(enumerate(self.stages))):
            with stage.weight_queue.defer(index) if split else nullcontext():
                self.outputs.pop((index, number)).backward(gradient)
            if number:
                gradient = self.inputs[index, number].grad
            if split:
                stage.weight_queue.run(index)

    def close(self) -> None:
        for stage, state in zip(self.stages, self.states, strict=True):
            stage.close(state)


def run_again(stages, batch, lengths, when: str, split: bool = False) -> torch.Tensor:
    """As `run_segments`; `when` a forward runs again."""
    run, count, total = Twice(stages, batch, lengths), len(lengths), 0.0
    for index in range(count):
        total = total + run.light(index)
        if when == "at once":
            run.again(index)
    for index in range(count if when == "all first" else 0):
        run.again(index)
    for index in reversed(range(count)):
        if when == "just before":
            run.again(index)
        run.backward(index, split)
    run.close()
    return total


def check(config, batch, lengths, when="just before", keeps_attention=False, split=False, cuts=()):
    splits = [range(a, b) for a, b in pairwise([0, *cuts, 2])]
    once, twice = make_stages(config, splits), make_stages(config, splits)
    for stage in twice:
        stage.keeps_attention = keeps_attention
    expected = run_segments(once, batch, lengths, "at once" if split else None)
    found = run_again(twice, batch, lengths, when, split)
    assert torch.equal(found, expected)
    wanted = gradients(once)
    for name, gradient in gradients(twice).items():
        assert torch.equal(gradient, wanted[name]), name


@pytest.mark.parametrize("keeps_attention", [False, True], ids=["full", "selective"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter(name, lengths, keeps_attention):
    config = CONFIGS[name]
    check(config, make_batch(config, 1, 96), lengths, keeps_attention=keeps_attention)


@pytest.mark.parametrize("keeps_attention", [False, True], ids=["full", "selective"])
@pytest.mark.parametrize("when", ["at once", "all first", "just before"])
@pytest.mark.parametrize("split", [False, True], ids=["B", "I and W"])
@pytest.mark.parametrize("cuts", [(), (1,)], ids=["whole", "in stages"])
@pytest.mark.parametrize("packing", PACKED)
def test_packed_documents_stages_and_places_of_r(packing, cuts, split, when, keeps_attention):
    batch = make_batch(CONFIGS["tied"], 2, 96, PACKED[packing])
    check(CONFIGS["tied"], batch, LENGTHS[2], when, keeps_attention, split, cuts)


def counted(calls: list[int]):
    def kernel(q):
        real = kernel_for(q)

        def forward(inputs):
            calls.append(1)
            return real.forward(inputs)

        return Kernel(forward, real.backward)

    return kernel


@pytest.mark.parametrize("keeps_attention", [False, True], ids=["full", "selective"])
def test_selective_recompute_does_not_repeat_attention(keeps_attention):
    stage = DecoderStage(BASE, range(2), build=Build(torch.float64))
    stage.keeps_attention = keeps_attention
    calls: list[int] = []
    with replaced(decoder, "kernel_for", counted(calls)):
        run_again([stage], make_batch(BASE, 1, 96), [40, 56], "just before")
    assert len(calls) == 2 * 2 * (1 if keeps_attention else 2)


def test_the_loss_is_not_computed_again():
    stage = DecoderStage(BASE, range(2), build=Build(torch.float64))
    calls: list[int] = []

    def counting(*arguments):
        calls.append(1)
        return chunks(*arguments)

    chunks = loss._chunks
    with replaced(loss, "_chunks", counting):
        run_again([stage], make_batch(BASE, 1, 96), [40, 56], "just before")
    assert len(calls) == 2 * 2  # of each segment in F and in B, but not in R


def test_of_the_last_segment_no_keys_and_values_stay():
    """Nobody else reads them, and they would be the most that a light forward keeps."""
    stage = DecoderStage(replace(BASE, layers=2), range(2), last=False)
    state = stage.open(make_batch(BASE, 1, 96))
    first, last = segments_from_lengths([40, 56])
    stage.light(None, state, first)
    stage.light(None, state, last)
    assert [store.k.shape[1] for store in state.stores] == [40, 40]
    output = stage.again(None, state, last)
    assert [store.k.shape[1] for store in state.stores] == [96, 96]
    output.sum().backward()
    with pytest.raises(RunError, match="backward of its first 40 tokens"):
        stage.close(state)


def test_a_backward_without_the_second_forward_is_refused():
    """The store does not let a later segment's backward run on keys and values that are gone."""
    stage = DecoderStage(BASE, range(1), last=False)
    state = stage.open(make_batch(BASE, 1, 96))
    first, last = segments_from_lengths([40, 56])
    output = stage(None, state, first)
    stage.light(None, state, last)
    with pytest.raises(RunError, match="backward of segment 0"):
        output.sum().backward()


def test_a_forgotten_output_of_attention_is_made_again():
    """A store without it falls back to running attention: right, only slower."""
    with replaced(attention.KVStore, "take_attended", lambda self, view: None):
        check(BASE, make_batch(BASE, 1, 96), LENGTHS[2], keeps_attention=True)
