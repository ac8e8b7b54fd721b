"""What `longpipe doctor` looks at: each check tries the thing itself, not only its version."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
import torch.distributed as dist

from longpipe.model.kernels import KERNELS, Inputs, kernel_for
from longpipe.runtime.launch import Launch, World, launch

OLDEST_TORCH = (2, 11)
_MEET_S = 90.0  # two processes that import torch need a few seconds; a slow disk needs more
_LAUNCHED = ("RANK", "WORLD_SIZE", "SLURM_PROCID")
_EXTRAS = {
    "tensorboard": ("train.tensorboard", "pip install 'longpipe[tensorboard]'"),
    "datasets": ('data.kind = "dataset"', "pip install 'longpipe[datasets]'"),
}

State = Literal["ok", "missing", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. A "fault" stops training; "missing" only says what cannot be used."""

    name: str
    state: State
    found: str
    advice: str = ""


def checks() -> Iterator[Check]:
    """Every check, one after another; the last takes seconds, since it starts processes."""
    yield _python()
    yield _torch()
    yield _machine()
    yield from _devices()
    yield from _backends()
    for device in _compute_devices():
        for dtype in (torch.float32, torch.bfloat16):
            yield _attention(device, dtype)
    for package, (use, install) in _EXTRAS.items():
        yield _extra(package, use, install)
    yield _launcher()


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Check:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    text = f"{torch.__version__} ({build})"
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        return Check("torch", "fault", text, f"pip install 'torch>={oldest}'")
    return Check("torch", "ok", text)


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f"{gib:.1f} GiB of memory"
    except (ValueError, OSError):  # not every system tells
        memory = "memory not known"
    return Check("machine", "ok", f"{cores} cores for this process, {memory}, {platform.system()}")


def _devices() -> Iterator[Check]:
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        yield Check(f"cuda:{index}", "ok", f"{properties.name}, {memory}")
    if not torch.cuda.device_count():
        advice = "training runs on the CPU"
        if torch.version.cuda:
            advice += "; look at nvidia-smi and the driver"
        yield Check("cuda", "missing", "no GPU that torch can use", advice)


def _backends() -> Iterator[Check]:
    if dist.is_available() and dist.is_gloo_available():
        yield Check("gloo", "ok", "messages between CPUs")
    else:
        yield Check("gloo", "fault", "not in this torch", "install torch's official wheel")
    if not torch.cuda.device_count():
        return
    if dist.is_available() and dist.is_nccl_available():
        yield Check("NCCL", "ok", "messages between GPUs")
    else:
        advice = 'install a CUDA build of torch, or set train.device = "cpu"'
        yield Check("NCCL", "missing", "not in this torch", advice)


def _compute_devices() -> list[torch.device]:
    cuda = [torch.device("cuda", 0)] if torch.cuda.device_count() else []
    return [torch.device("cpu"), *cuda]


def _attention(device: torch.device, dtype: torch.dtype) -> Check:
    """Forward and backward of a tiny segment with a prefix, through the kernel that would run."""
    name = f"attention, {device.type} {str(dtype).removeprefix('torch.')}"
    try:
        q = torch.randn(1, 16, 2, 32, device=device, dtype=dtype)
        k, v = torch.randn(2, 1, 32, 1, 32, device=device, dtype=dtype)
        kernel = kernel_for(q)
        inputs = Inputs(q, k, v, (16,))
        out, lse = kernel.forward(inputs)
        grads = kernel.backward(out, inputs, out, lse)
        finite = all(bool(grad.isfinite().all()) for grad in grads if grad is not None)
    except (RuntimeError, NotImplementedError) as error:
        return Check(name, "fault", str(error).splitlines()[0], "use another precision or device")
    if not finite:
        return Check(name, "fault", "gives numbers that are not finite", "use another precision")
    if kernel is KERNELS["blockwise"]:
        return Check(name, "ok", "blockwise: exact, but slower than a flash kernel")
    return Check(name, "ok", "flash kernel, forward and backward")


def _extra(package: str, use: str, install: str) -> Check:
    try:
        return Check(package, "ok", f"{version(package)}, for {use}")
    except PackageNotFoundError:
        return Check(package, "missing", f"not installed; only {use} needs it", install)


def _launcher() -> Check:
    """In a process of its own, so that a hang cannot take this one with it."""
    name = "local processes"
    code = f"from {__name__} import meet; meet()"
    environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHED}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_MEET_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        advice = "a firewall on 127.0.0.1, or a machine under heavy load?"
        return Check(name, "fault", f"two processes did not meet in {_MEET_S:g} s", advice)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return Check(name, "fault", lines[-1], "training over local processes cannot work")
    return Check(name, "ok", "two of them met and exchanged a message over gloo")


def meet() -> None:
    """Start two local ranks that add up their numbers; raises RunError if they cannot."""
    total = launch(_add, options=Launch(ranks=2, threads=1, meet_timeout_s=_MEET_S / 2))
    assert total == 3, f"two ranks added 1 and 2 to {total}"


def _add(world: World) -> int:
    number = torch.tensor(world.rank + 1)
    dist.all_reduce(number)
    return int(number)
