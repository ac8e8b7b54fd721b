"""Gradients over segments equal those of plain autograd over the whole sequence, in float64."""

from itertools import pairwise

import pytest
import torch
from segment_runs import (
    BASE,
    CONFIGS,
    EXACT,
    gradients,
    make_batch,
    make_stages,
    plain_gradients,
    run_segments,
    worst_error,
)

from longpipe.model import decoder
from longpipe.model.kernels import KERNELS

torch.set_num_threads(1)

LENGTHS = [
    [512],
    [256, 256],
    [200, 150, 100, 62],
    [37, 200, 1, 274],
    [64] * 8,
]
PACKED = {
    "one": [(0,), (0,)],
    "alike": [(0, 100, 333), (0, 100, 333)],
    "different": [(0, 37, 38, 444), (0, 200)],
    "at the cuts": [(0, 200, 350), (0, 450)],
    "many": [tuple(range(0, 512, 7)), (0, 511)],
}


def check(config, batch, lengths, split_backward=None, layers=2, cuts=()):
    borders = [0, *cuts, layers]
    splits = [range(a, b) for a, b in pairwise(borders)]
    stages = make_stages(config, splits)
    loss, expected = plain_gradients(stages, batch)
    found = run_segments(stages, batch, lengths, split_backward)
    assert abs(found - loss) / loss < EXACT
    error, name = worst_error(gradients(stages), expected)
    assert error < EXACT, f"{name}: {error}"


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_over_segments(name, lengths):
    check(CONFIGS[name], make_batch(CONFIGS[name], 1, 512), lengths)


@pytest.mark.parametrize("split_backward", ["at once", "late", "reversed"])
@pytest.mark.parametrize("name", ["tied", "every bias", "qwen3"])
def test_split_backward(name, split_backward):
    check(CONFIGS[name], make_batch(CONFIGS[name], 1, 512), [37, 200, 1, 274], split_backward)


@pytest.mark.parametrize("segments", range(1, 9))
def test_every_number_of_segments(segments):
    lengths = [100 // segments + (i < 100 % segments) for i in range(segments)]
    check(BASE, make_batch(BASE, 2, 100), lengths, "late")


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("packing", PACKED)
def test_packed_documents(packing, lengths):
    check(BASE, make_batch(BASE, 2, 512, PACKED[packing]), lengths, "late")


@pytest.mark.parametrize("cuts", [(1,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("name", ["llama", "tied"])
def test_stages_equal_the_unsplit_model(name, cuts):
    config = CONFIGS[name]
    batch = make_batch(config, 1, 60, [(0, 13, 50)])
    check(config, batch, [20, 25, 15], "late", cuts=cuts)


def test_with_the_blockwise_kernel(monkeypatch):
    """What a GPU runs in float32 and float64."""
    monkeypatch.setattr(decoder, "kernel_for", lambda _: KERNELS["blockwise"])
    check(BASE, make_batch(BASE, 2, 90, [(0, 31), (0, 60, 61)]), [25, 40, 25], "late")


def test_split_backward_gives_the_same_bits():
    batch = make_batch(BASE, 1, 64)
    found = []
    for split_backward in (None, "at once", "late"):
        stages = make_stages(BASE, [range(2)])
        run_segments(stages, batch, [30, 34], split_backward)
        found.append(gradients(stages))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_documents_do_not_see_each_other():
    """A packed row has the loss and gradients of its documents, each run alone."""
    batch = make_batch(BASE, 1, 90, [(0, 31, 60)])
    packed = make_stages(BASE, [range(2)])
    loss = run_segments(packed, batch, [25, 40, 25])
    alone = make_stages(BASE, [range(2)])
    losses = []
    for a, b in ((0, 31), (31, 60), (60, 90)):
        document = type(batch).whole(batch.tokens[:, a:b], batch.labels[:, a:b])
        losses.append(run_segments(alone, document, [b - a]))
    assert abs(sum(losses) - loss) / loss < EXACT
    assert worst_error(gradients(packed), gradients(alone))[0] < EXACT


def test_two_micro_batches_add_up():
    first, second = make_batch(BASE, 1, 40), make_batch(BASE, 2, 40)
    stages = make_stages(BASE, [range(2)])
    run_segments(stages, first, [20, 20])
    run_segments(stages, second, [7, 33], "late")
    expected = {n: g.clone() for n, g in plain_gradients(stages, first)[1].items()}
    for name, gradient in plain_gradients(stages, second)[1].items():
        expected[name] += gradient
    assert worst_error(gradients(stages), expected)[0] < EXACT
