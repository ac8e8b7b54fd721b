"""Wrong orders are refused, and planted faults in the gradients' way are seen."""

import pytest
import torch
from segment_runs import (
    BASE,
    EXACT,
    gradients,
    make_batch,
    make_stages,
    plain_gradients,
    replaced,
    run_segments,
    worst_error,
)

from longpipe.errors import RunError
from longpipe.ir import Segment, segments_from_lengths
from longpipe.model import attention, functions, linear

torch.set_num_threads(1)


def started(lengths):
    (stage,) = make_stages(BASE, [range(2)])
    state = stage.open(make_batch(BASE, 1, sum(lengths)))
    return stage, state, segments_from_lengths(lengths)


def test_forward_out_of_order():
    stage, state, segments = started([5, 5, 5])
    stage(None, state, segments[0])
    with pytest.raises(RunError, match=r"segment 2 .*expected tokens from 5 on"):
        stage(None, state, segments[2])


def test_forward_twice():
    stage, state, segments = started([5, 5])
    stage(None, state, segments[0])
    with pytest.raises(RunError, match="expected tokens from 5 on"):
        stage(None, state, segments[0])


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 2, 1)])
def test_backward_out_of_order(order):
    stage, state, segments = started([5, 6, 7])
    losses = [stage(None, state, segment) for segment in segments]

    def backward():
        for index in order:
            losses[index].backward(retain_graph=True)

    with pytest.raises(RunError, match=r"backward of segment .* out of order: expected"):
        backward()


def test_backward_before_the_last_forward():
    stage, state, segments = started([5, 6, 7])
    losses = [stage(None, state, segment) for segment in segments[:2]]
    with pytest.raises(RunError, match="after the forward of all 18 tokens"):
        losses[1].backward()


def test_close_before_all_is_drained():
    stage, state, segments = started([5, 6])
    losses = [stage(None, state, segment) for segment in segments]
    losses[1].backward()
    with pytest.raises(RunError, match="first 5 tokens"):
        stage.close(state)


def test_evaluation_needs_no_backward():
    stage, state, segments = started([5, 6])
    with torch.no_grad():
        for segment in segments:
            stage(None, state, segment)
    stage.close(state)


def test_segment_outside_the_sequence():
    stage, state, _ = started([5, 6])
    with pytest.raises(RunError, match="not a part of a sequence of 11 tokens"):
        stage(None, state, Segment(0, 0, 12))


def faulty_error(owner, name, value, split_backward=None):
    """Worst gradient error of a run with one attribute replaced by a faulty one."""
    stages = make_stages(BASE, [range(2)])
    batch = make_batch(BASE, 1, 48, [(0, 10)])
    _, expected = plain_gradients(stages, batch)
    with replaced(owner, name, value):
        run_segments(stages, batch, [12, 20, 16], split_backward)
    return worst_error(gradients(stages), expected)[0]


def test_the_faults_below_start_from_a_run_without_error():
    push = linear.WeightQueue.push
    assert faulty_error(linear.WeightQueue, "push", push) < EXACT


def test_a_dropped_dkv_contribution_is_seen():
    settle = attention.KVStore.settle

    def forgetful(store, index, pieces, segment, grads):
        settle(store, index, pieces, segment, grads)
        if segment.index == 2:
            store._due.clear()

    assert faulty_error(attention.KVStore, "settle", forgetful) > 1e-4


def test_dkv_of_the_wrong_tokens_is_seen():
    settle = attention.KVStore.settle

    def shifted(store, index, pieces, segment, grads):
        settle(store, index, pieces, segment, grads)
        store._due.update({i: (dk.roll(1, 1), dv) for i, (dk, dv) in store._due.items()})

    assert faulty_error(attention.KVStore, "settle", shifted) > 1e-4


def test_a_doubled_weight_gradient_is_seen():
    add = linear._add_product

    def twice(product):
        add(product)
        add(product)

    assert faulty_error(linear, "_add_product", twice, "late") > 0.5


def test_a_lost_weight_gradient_is_seen():
    push = linear.WeightQueue.push
    calls = []

    def lossy(queue, *product):
        calls.append(product)
        if len(calls) != 5:
            push(queue, *product)

    assert faulty_error(linear.WeightQueue, "push", lossy, "late") > 1e-4


def test_a_rotation_that_is_not_undone_is_seen():
    assert faulty_error(attention, "rotate_back", lambda dx, *_: dx) > 1e-4


def test_a_norm_gradient_without_its_mean_term_is_seen():
    def partial(dy, x_hat, rstd, norm):
        linear.add_gradient(norm.weight, (dy * x_hat).sum(0))
        return dy * norm.weight.detach() * rstd

    assert faulty_error(functions, "rms_backward", partial) > 1e-4


def test_second_backward_is_refused():
    stage, state, segments = started([8])
    loss = stage(None, state, segments[0])
    loss.backward(retain_graph=True)
    with pytest.raises(RunError, match="out of order"):
        loss.backward()
