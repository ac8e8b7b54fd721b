"""What every mode of the pipeline benchmark runs: the decoder, its weights and its tokens."""

from dataclasses import dataclass

import torch

from longpipe.model import Build, DecoderConfig, DecoderStage, MicroBatch, make_stage

DECODER = DecoderConfig(
    hidden=128,
    layers=8,
    heads=2,
    kv_heads=1,
    head_dim=64,
    intermediate=384,
    vocab=2048,
    max_positions=1 << 20,
)


@dataclass(frozen=True, slots=True)
class Workload:
    """One step: `microbatches` sequences of `tokens` tokens through `config`."""

    config: DecoderConfig
    tokens: int
    microbatches: int

    @property
    def scale(self) -> float:
        """Gradient of the loss sum: every position has a target."""
        return 1.0 / (self.tokens * self.microbatches)

    def batches(self) -> tuple[MicroBatch, ...]:
        """The same random tokens in every process and mode."""
        generator = torch.Generator().manual_seed(7)
        shape = (self.microbatches, 1, self.tokens + 1)
        text = torch.randint(self.config.vocab, shape, generator=generator)
        return tuple(MicroBatch.whole(row[:, :-1], row[:, 1:].contiguous()) for row in text)

    def stage(self, stage: int, stages: int) -> DecoderStage:
        """Stage `stage` of an even split; weights depend on their names only."""
        each = self.config.layers // stages
        partition = tuple(range(s * each, (s + 1) * each) for s in range(stages))
        return make_stage(self.config, partition, stage, Build(seed=1))
