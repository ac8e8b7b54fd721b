"""Initial values that depend on a parameter's name and the seed, not on how the model is split."""

import hashlib

import torch
from torch import nn


def initialise(module: nn.Module, std: float, seed: int) -> None:
    """Fills every parameter: norms with 1, biases with 0, the rest normal with deviation `std`.

    Each parameter has a random stream of its own, drawn in float32 on the CPU: every partition,
    parameter type and device gives the same values.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                stream = torch.Generator().manual_seed(_stream_seed(name, seed))
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=stream))


def _stream_seed(name: str, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
