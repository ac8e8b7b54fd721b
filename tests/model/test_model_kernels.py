"""Attention kernels: each against a dense float64 reference, whatever their devices."""

import pytest
import torch

from longpipe.model import blockwise, kernels
from longpipe.model.kernels import KERNELS, Inputs

torch.set_num_threads(1)

CASES = [  # (prefix, lengths of the documents in the segment)
    (0, (40,)),
    (24, (40,)),
    (0, (1, 30, 9)),
    (17, (5, 1, 34)),
    (63, (1,)),
]


def make_inputs(prefix, lengths, rows=2, dtype=torch.float64, device="cpu"):
    stream = torch.Generator().manual_seed(prefix)
    tokens = sum(lengths)
    shapes = [(rows, tokens, 4, 8), *[(rows, prefix + tokens, 2, 8)] * 2, (rows, tokens, 4, 8)]
    q, k, v, dout = (torch.empty(s).normal_(generator=stream) for s in shapes)
    return Inputs(*(x.to(device, dtype) for x in (q, k, v)), lengths), dout.to(device, dtype)


def dense(inputs, dout):
    """Output and gradients by autograd over one dense mask."""
    q, k, v = (x.detach().double().requires_grad_() for x in inputs[:3])
    key_lengths = (inputs.prefix + inputs.lengths[0], *inputs.lengths[1:])
    documents = range(len(key_lengths))
    key_of = torch.tensor(documents).repeat_interleave(torch.tensor(key_lengths))
    visible = (key_of[:, None] == key_of[None]).tril()[inputs.prefix :]
    ks, vs = (x.repeat_interleave(2, dim=2) for x in (k, v))
    score = torch.einsum("bthd,bshd->bhts", q, ks) * inputs.scale
    share = score.masked_fill(~visible.to(score.device), float("-inf")).softmax(-1)
    out = torch.einsum("bhts,bshd->bthd", share, vs)
    out.backward(dout.double())
    return [out.detach(), q.grad, k.grad, v.grad]


def run(kernel, inputs, dout):
    out, lse = kernel.forward(inputs)
    grads = kernel.backward(dout, inputs, out, lse)
    dk, dv = grads.dk_BTGD, grads.dv_BTGD
    assert (grads.dk_BPGD is None) == (grads.dv_BPGD is None) == (inputs.prefix == 0)
    if grads.dk_BPGD is not None:
        dk, dv = torch.cat((grads.dk_BPGD, dk), 1), torch.cat((grads.dv_BPGD, dv), 1)
    return [out, grads.dq_BTHD, dk, dv]


@pytest.mark.parametrize("block", [512, 16, 7])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["cpu", "blockwise"])
def test_against_dense(name, case, block, monkeypatch):
    monkeypatch.setattr(blockwise, "_BLOCK", block)
    inputs, dout = make_inputs(*case)
    for found, expected in zip(run(KERNELS[name], inputs, dout), dense(inputs, dout), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["cpu", "blockwise"])
def test_half_precision(name):
    inputs, dout = make_inputs(24, (30, 10), dtype=torch.bfloat16)
    for found, expected in zip(run(KERNELS[name], inputs, dout), dense(inputs, dout), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["cpu", "blockwise"])
def test_scores_far_apart(name):
    """Neither part of a merge may overflow or lose the other."""
    inputs, dout = make_inputs(20, (20,))
    inputs.q_BTHD.mul_(200)
    inputs.k_BKGD[:, :20].mul_(3)
    for found, expected in zip(run(KERNELS[name], inputs, dout), dense(inputs, dout), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_of_the_cuda_kernel(case):
    """The calls fit the operators' signatures; the numbers are tested where there is a GPU."""
    inputs, dout = make_inputs(*case, dtype=torch.bfloat16, device="meta")
    found = run(KERNELS["cuda"], inputs, dout)
    assert [x.shape for x in found] == [x.shape for x in (inputs.q_BTHD, *inputs[:3])]


def test_choice_of_kernel():
    assert kernels.kernel_for(torch.empty(1, 1, 1, 8)) is KERNELS["cpu"]
    assert kernels.kernel_for(torch.empty(1, 1, 1, 8, device="meta")) is KERNELS["blockwise"]


def test_documents_cost_what_they_cost_alone():
    """Scores computed grow with the sum of squares of the documents, not of the segment."""
    counted = []

    def counting(dispatcher):
        def call(q, k, *rest, **more):
            counted.append(q.shape[2] * k.shape[2])
            return dispatcher(q, k, *rest, **more)

        return call

    inputs, _ = make_inputs(8, (16,) * 8)
    kept = kernels._FLASH_CPU
    kernels._FLASH_CPU = counting(kept)
    try:
        KERNELS["cpu"].forward(inputs)
    finally:
        kernels._FLASH_CPU = kept
    assert sum(counted) == 8 * 16 * 16 + 16 * 8
