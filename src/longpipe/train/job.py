"""Everything about a run that can be known, checked and refused before a process is started."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from longpipe.errors import ConfigError
from longpipe.model.config import DecoderConfig
from longpipe.train.checkpoint import latest
from longpipe.train.config import Config
from longpipe.train.layout import Layout, make_layout
from longpipe.train.shape import decoder_config


@dataclass(frozen=True, slots=True)
class Job:
    """What every rank is handed: the config and what follows from it."""

    config: Config
    model: DecoderConfig
    layout: Layout
    device: str

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.train.out_dir)

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.folder / "checkpoints"


def prepare(config: Config, local_ranks: int | None = None) -> Job:
    """Check a whole config and make the run's folder; starts nothing.

    Raises LongpipeError with the way out.

    `local_ranks` is the number of ranks on this machine; None: all of them.
    """
    model = decoder_config(config)
    layout = make_layout(config, model)
    device = _device(config, local_ranks or config.pipeline.ranks)
    if config.train.send_delay_s and device == "cuda":
        raise ConfigError(
            "train.send_delay_s holds messages of CPU tensors back, this run is on GPUs: set "
            'train.device = "cpu", or train.send_delay_s = 0'
        )
    job = Job(config, model, layout, device)
    if not config.train.resume and latest(job.checkpoints) is not None:
        raise ConfigError(
            f"{job.checkpoints} holds checkpoints of an earlier run, but train.resume = false: set "
            "train.resume = true to go on, or another train.out_dir to start anew"
        )
    _make_folder(job.folder)
    return job


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
    else:
        if os.access(folder, os.W_OK | os.X_OK):
            return
        why = "it may not be written to"
    raise ConfigError(
        f"train.out_dir = {str(folder)!r} cannot be used: {why}. Set it to another folder"
    )


def _device(config: Config, local_ranks: int) -> str:
    asked, gpus = config.train.device, torch.cuda.device_count()
    if asked == "cuda" and gpus < local_ranks:
        raise ConfigError(
            f'train.device = "cuda", but torch sees {gpus} GPUs for {local_ranks} ranks on this '
            'machine: use fewer pipeline.ranks, or train.device = "cpu" (longpipe doctor says more)'
        )
    return "cuda" if asked != "cpu" and gpus >= local_ranks else "cpu"
