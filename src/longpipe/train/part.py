"""One rank's part of the model: its stages, their parameters, and what it shares with others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import Parameter

from longpipe.data import Batch
from longpipe.ir import Placement
from longpipe.model import Build, DecoderStage, MicroBatch, make_stage, share_ties
from longpipe.model.config import DecoderConfig
from longpipe.model.hf import load_stage
from longpipe.model.split import holders
from longpipe.train.config import Config

PARAMETERS = {
    "float32": torch.float32,
    "bfloat16": torch.float32,  # the optimizer's own copy; the arithmetic uses a narrow one
    "float64": torch.float64,
}
COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's stages by number, and their parameters by name, each once.

    `tied` names the parameters that another rank holds too, with the group of those ranks: tied
    embeddings, and all parameters of a stage that lies on several ranks. `counted_elsewhere` has
    those of them that a lower rank counts in the gradient's norm.
    """

    stages: Mapping[int, DecoderStage]
    parameters: Mapping[str, Parameter]
    tied: Mapping[str, dist.ProcessGroup] = field(default_factory=dict)
    counted_elsewhere: frozenset[str] = frozenset()

    def sum_tied(self) -> None:
        """Add up the gradients of tied parameters over the ranks that hold them."""
        for name, group in self.tied.items():
            dist.all_reduce(self.parameters[name].grad, group=group)

    def zero_gradients(self) -> None:
        """Make gradients, or set them to 0: they stay in place from step to step."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def refresh(self) -> None:
        """Bring the narrow copies of the weights up to date, after every change of them."""
        for stage in self.stages.values():
            stage.refresh_compute_weights()


def build_part(
    config: Config,
    model: DecoderConfig,
    layers: Sequence[range],
    placement: Placement,
    rank: int,
    device: torch.device,
) -> Part:
    """Build and fill the stages of `rank`; every rank calls this at the same point.

    Weights are random, the same for every layout, or come from `model.weights`.
    """
    folder, precision = config.model.weights, config.train.precision
    build = Build(
        dtype=PARAMETERS[precision],
        compute=COMPUTE[precision],
        device=device,
        seed=None if folder else config.model.init_seed,
    )
    owned = placement.stages_of(rank)
    stages = {number: make_stage(model, layers, number, build) for number in owned}
    share_ties(stages)
    for stage in stages.values():
        stage.keeps_attention = config.pipeline.recompute == "selective"
    if folder:
        for stage in stages.values():
            load_stage(stage, Path(folder))
    parameters = {
        name: parameter for stage in stages.values() for name, parameter in stage.named_parameters()
    }
    tied = _tied(holders(model, layers), placement)
    mine = {name: group for name, (ranks, group) in tied.items() if rank in ranks}
    elsewhere = frozenset(name for name in mine if rank != tied[name][0][0])
    return Part(stages, parameters, mine, elsewhere)


def _tied(
    held: Mapping[str, tuple[int, ...]], placement: Placement
) -> dict[str, tuple[tuple[int, ...], dist.ProcessGroup]]:
    """Parameters on several ranks, with these ranks and their group; `held` has their stages.

    All ranks make all groups, members or not, in one order.
    """
    groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
    found = {}
    for name, stages in held.items():
        ranks = tuple(sorted({rank for stage in stages for rank in placement.ranks_of(stage)}))
        if len(ranks) > 1:
            if ranks not in groups:
                groups[ranks] = dist.new_group(list(ranks))
            found[name] = ranks, groups[ranks]
    return found


def microbatches(batch: Batch, device: torch.device) -> list[MicroBatch]:
    """A step's batch as the model takes it, one value for each micro-batch."""
    return [
        MicroBatch(torch.from_numpy(tokens).to(device), torch.from_numpy(labels).to(device), starts)
        for tokens, labels, starts in zip(batch.tokens, batch.labels, batch.starts, strict=True)
    ]
