"""The trained model as a Hugging Face folder, for use elsewhere or as the start of another run."""

import shutil
from pathlib import Path

from longpipe.data import FileTokenizer, Tokenizer
from longpipe.model.hf import save_stage, write_config, write_index
from longpipe.train.job import Job
from longpipe.train.part import PARAMETERS, Part
from longpipe.train.peers import Peers

_TOKENIZER = "tokenizer.json"


def export_model(job: Job, part: Part, tokenizer: Tokenizer | None, peers: Peers) -> Path:
    """Write `model/` in the run's folder; every rank calls this and writes its own stages.

    A stage on several ranks is written by the first of them.

    Raises CheckpointError, on all ranks, if one cannot write.
    """
    folder = job.folder / "model"
    stages, placement = job.layout.plan.problem.stages, job.layout.program.placement

    def write_part() -> None:
        for number, stage in part.stages.items():
            if placement.ranks_of(number)[0] == peers.rank:
                save_stage(stage, folder, number, stages)

    def complete() -> None:
        if peers.rank:
            return
        if stages > 1:
            write_index(job.model, folder, stages)
        write_config(job.model, folder, PARAMETERS[job.config.train.precision])
        if isinstance(tokenizer, FileTokenizer):
            shutil.copyfile(tokenizer.path, folder / _TOKENIZER)

    peers.on_all(write_part, "writing the model")
    peers.on_all(complete, "writing the model")
    return folder
