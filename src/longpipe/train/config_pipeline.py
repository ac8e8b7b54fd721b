"""The sections of the config that say how a step is divided over the ranks, and in which order."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import model_validator as validator

from longpipe.train.config_section import Section


class PipelineConfig(Section):
    """[pipeline]: how model and sequences are divided, and in which order the parts run."""

    schedule: str = "seq1f1b"
    """A schedule that `longpipe zoo` lists, or a file with one: our text, or torch's CSV."""
    memory_limit: PositiveFloat | None = None
    """Of a schedule that searches: what a rank may hold, in full micro-batches on a full stage."""
    group: PositiveInt | None = None
    """Of kfkb: forwards, and then backwards, in a row."""
    ranks: PositiveInt = 2
    """Processes in the pipeline."""
    chunks: PositiveInt = 1
    """Stages per rank."""
    microbatches: PositiveInt = 4
    """Micro-batches per step."""
    segments: PositiveInt = 1
    """Segments per sequence."""
    cuts: Literal["balanced", "even"] | tuple[PositiveInt, ...] = "balanced"
    """Segments of equal cost, of equal length, or of the lengths written here (in tokens)."""
    cut_multiple: PositiveInt = 1
    """Balanced cuts are rounded to multiples of this many tokens."""
    partition: Literal["balanced"] | tuple[PositiveInt, ...] = "balanced"
    """Layers per stage: of equal cost, or as written here, one count per stage."""
    weight_queue_bytes: PositiveInt | None = None
    """Bound on the memory of deferred weight gradients per rank; unset: as the schedule says."""
    recompute: Literal["none", "full", "selective"] = "none"
    """Make activations again before the backward: all, or all but attention's (long sequences)."""
    recompute_stages: str | tuple[NonNegativeInt, ...] = "all"
    """Stages that do: "all", "chunk:0" (the first of each rank), or a list of their numbers."""

    @property
    def options(self) -> tuple[tuple[str, float], ...]:
        """The options of the schedule that are set, by name."""
        given = {"group": self.group, "memory_limit": self.memory_limit}
        return tuple((name, value) for name, value in given.items() if value is not None)

    @validator(mode="after")
    def _counts(self) -> Self:
        if isinstance(self.cuts, tuple) and len(self.cuts) != self.segments:
            raise ValueError(
                f"cuts lists {len(self.cuts)} segment lengths, but segments = {self.segments}"
            )
        stages = self.ranks * self.chunks
        if isinstance(self.partition, tuple) and len(self.partition) != stages:
            raise ValueError(
                f"partition lists {len(self.partition)} stages, but ranks * chunks = {stages}"
            )
        if self.recompute == "none" and self.recompute_stages != "all":
            raise ValueError(
                f'recompute_stages = {self.recompute_stages!r}, but recompute = "none": set '
                'recompute = "full" or "selective", or leave the stages out'
            )
        return self


class TuneConfig(Section):
    """[tune]: the group of kfkb, changed while training as the network asks for it."""

    every: NonNegativeInt = 0
    """Steps between two looks at what messages take, after which the group may change; 0: never."""
    groups: tuple[PositiveInt, ...] = ()
    """Groups to choose from; empty: all that divide the micro-batches (or segments) and fit."""
    memory_bytes: PositiveInt | None = None
    """Bound on the activations of a rank, as worked out; unset: all groups are thought to fit."""
    hysteresis: float = Field(default=0.05, ge=0)
    """Share of a step's time in the pipeline that a larger group must gain."""


def check_cuts(pipeline: PipelineConfig, sequence_length: int) -> None:
    """Raise ValueError if sequences of this many tokens cannot be cut as `pipeline` asks."""
    segments, multiple = pipeline.segments, pipeline.cut_multiple
    if isinstance(pipeline.cuts, tuple) and sum(pipeline.cuts) != sequence_length:
        raise ValueError(
            f"pipeline.cuts adds up to {sum(pipeline.cuts)} tokens, "
            f"data.sequence_length = {sequence_length}"
        )
    if pipeline.cuts == "even" and sequence_length % segments:
        lower = sequence_length // segments * segments
        nearest = f"{lower} or {lower + segments}" if lower else str(segments)
        raise ValueError(
            f"data.sequence_length = {sequence_length} does not divide into "
            f"pipeline.segments = {segments} even segments: set data.sequence_length = {nearest}, "
            'or pipeline.cuts = "balanced", which takes any length'
        )
    if segments * multiple > sequence_length:
        raise ValueError(
            f"pipeline.segments = {segments} of at least pipeline.cut_multiple = {multiple} tokens "
            f"do not fit into data.sequence_length = {sequence_length}"
        )
