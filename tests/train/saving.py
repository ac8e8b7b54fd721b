"""A small run to checkpoint: tensors that are a function of the step."""

from pathlib import Path

import torch
from torch import Tensor

from longpipe.train.manifest import TrainState


def tensors_of(step: int, size: int = 64) -> dict[str, Tensor]:
    """What the run holds after `step` steps."""
    return {
        "model.a.weight": torch.full((size, 4), float(step)),
        "model.b.weight": torch.arange(size, dtype=torch.float64) + step,
        "optim.a.weight.step": torch.tensor(float(step)),
    }


def state_of(step: int) -> TrainState:
    """The state after `step` steps."""
    return TrainState(step, {"sequences": 3 * step, "data": "d"}, config={"optim": {"lr": 0.1}})


def assert_holds(tensors: dict[str, Tensor], step: int) -> None:
    """The tensors are those of `step`, bit for bit."""
    for name, expected in tensors_of(step, tensors["model.b.weight"].numel()).items():
        assert torch.equal(tensors[name], expected), f"{name} is not that of step {step}"


def leftovers(folder: Path) -> list[str]:
    """Names of half-written checkpoints."""
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name]
