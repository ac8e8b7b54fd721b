"""Attention over segments on a GPU, against the float64 blockwise kernel."""

import pytest
import torch

from longpipe.ir import segments_from_lengths
from longpipe.model import Build, DecoderConfig, DecoderStage, MicroBatch
from longpipe.model.kernels import KERNELS, Inputs, kernel_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CONFIG = DecoderConfig(
    hidden=256, layers=2, heads=8, kv_heads=4, head_dim=64, intermediate=512, vocab=500
)
CASES = [  # (rows, prefix, lengths of the documents in the segment)
    (1, 0, (1000,)),
    (2, 0, (1000,)),
    (2, 777, (300,)),
    (1, 4096, (1,)),
    (1, 0, (100, 1, 611)),
    (2, 333, (100, 1, 200)),
]


def make_inputs(rows, prefix, lengths, dtype):
    stream = torch.Generator().manual_seed(prefix)
    tokens = sum(lengths)
    shapes = [(rows, tokens, 8, 64), *[(rows, prefix + tokens, 4, 64)] * 2, (rows, tokens, 8, 64)]
    q, k, v, dout = (torch.empty(s).normal_(generator=stream).to("cuda", dtype) for s in shapes)
    return Inputs(q, k, v, lengths), dout


def run(kernel, inputs, dout):
    out, lse = kernel.forward(inputs)
    grads = kernel.backward(dout, inputs, out, lse)
    return [out, *(g for g in grads if g is not None)]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_against_float64(case, dtype):
    inputs, dout = make_inputs(*case, dtype)
    assert kernel_for(inputs.q_BTHD) is KERNELS["cuda"]
    exact = Inputs(*(x.double() for x in inputs[:3]), inputs.lengths)
    pairs = zip(
        run(KERNELS["cuda"], inputs, dout),
        run(KERNELS["blockwise"], exact, dout.double()),
        strict=True,
    )
    for found, expected in pairs:
        error = (found.double() - expected).norm() / expected.norm()
        assert error < (1e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blockwise_on_the_gpu_equals_the_cpu_kernel(dtype):
    inputs, dout = make_inputs(2, 333, (100, 1, 200), dtype)
    assert kernel_for(inputs.q_BTHD) is KERNELS["blockwise"]
    on_cpu = Inputs(*(x.cpu().double() for x in inputs[:3]), inputs.lengths)
    found = run(KERNELS["blockwise"], inputs, dout)
    expected = run(KERNELS["cpu"], on_cpu, dout.cpu().double())
    names = ("out", "dq", "dk", "dv", "dk_past", "dv_past")
    for name, a, b in zip(names, found, expected, strict=True):
        error = (a.double().cpu() - b).norm() / b.norm()
        assert error < (1e-10 if dtype == torch.float64 else 1e-5), name


def model_gradients(build, lengths, split_backward, starts=((0, 700),)):
    """Loss and gradients of a whole model over segments of one micro-batch."""
    stage = DecoderStage(CONFIG, range(2), build=build)
    stream = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(0, 500, (2, 1, sum(lengths)), generator=stream).to(build.device)
    state = stage.open(MicroBatch(tokens, labels, starts))
    losses = [stage(None, state, segment) for segment in segments_from_lengths(lengths)]
    for index, loss in reversed(list(enumerate(losses))):
        if split_backward:
            with stage.weight_queue.defer(index):
                loss.backward()
        else:
            loss.backward()
    if split_backward:
        for index in range(len(losses)):
            stage.weight_queue.run(index)
    stage.close(state)
    total = torch.stack([loss.detach() for loss in losses]).sum().cpu().double()
    return total, {name: p.grad.cpu().double() for name, p in stage.named_parameters()}


@pytest.mark.parametrize("lengths", [[1024], [512, 512], [100, 700, 1, 223]], ids=str)
@pytest.mark.parametrize("split_backward", [False, True])
@pytest.mark.parametrize(
    ("dtype", "compute", "tolerance"),
    [
        (torch.float64, None, 1e-10),
        (torch.float32, None, 1e-3),  # TF32 is off by default; leaves room for it
        (torch.float32, torch.bfloat16, 5e-2),
    ],
    ids=["float64", "float32", "mixed"],
)
def test_model_on_the_gpu_equals_the_cpu(lengths, split_backward, dtype, compute, tolerance):
    exact_loss, exact = model_gradients(Build(torch.float64), [1024], False)
    build = Build(dtype, compute, device="cuda")
    loss, found = model_gradients(build, lengths, split_backward)
    assert abs(loss - exact_loss) / exact_loss < tolerance
    for name in exact:
        error = (found[name] - exact[name]).norm() / exact[name].norm()
        assert error < tolerance, f"{name}: {error}"


def test_same_bits_twice_on_the_gpu():
    """Resuming must give the same losses: no sums in an order of chance."""
    build = Build(torch.float32, device="cuda")
    first, second = (model_gradients(build, [300, 724], True)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
