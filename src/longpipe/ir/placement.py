"""Which rank runs a stage of a micro-batch."""

from dataclasses import dataclass

from longpipe.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Placement:
    """`placement(stage, mb)` is a rank.

    It takes the micro-batch, so that pipes which run in both directions are ordinary values.
    `by_mb` holds one row of ranks by stage for all micro-batches, or a row for each micro-batch.

    >>> [v(ranks=4)(stage, mb=0) for stage in range(8)]
    [0, 1, 2, 3, 3, 2, 1, 0]
    """

    ranks: int
    by_mb: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.by_mb or len({len(row) for row in self.by_mb}) != 1:
            raise ProblemError("a placement needs rows of equal length: one rank for each stage")
        for row in self.by_mb:
            for stage, rank in enumerate(row):
                if not 0 <= rank < self.ranks:
                    raise ProblemError(
                        f"stage {stage} is placed on rank {rank} of {self.ranks} ranks"
                    )

    def __call__(self, stage: int, mb: int) -> int:
        return self.by_mb[mb if len(self.by_mb) > 1 else 0][stage]

    @property
    def stages(self) -> int:
        """Stages that the placement covers."""
        return len(self.by_mb[0])

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages that `rank` holds for some micro-batch, ascending: its chunks."""
        return tuple(
            stage for stage in range(self.stages) if any(row[stage] == rank for row in self.by_mb)
        )

    def ranks_of(self, stage: int) -> tuple[int, ...]:
        """Ranks that hold `stage` for some micro-batch, ascending: more than one are replicas."""
        return tuple(sorted({row[stage] for row in self.by_mb}))


def loop(ranks: int, chunks: int = 1) -> Placement:
    """Stage s on rank s mod ranks: plain pipelines (one chunk) and looped, interleaved ones."""
    return Placement(ranks, (tuple(stage % ranks for stage in range(ranks * chunks)),))


def v(ranks: int) -> Placement:
    """Two chunks: stages go down the ranks and come back up, so rank 0 holds first and last."""
    return Placement(ranks, ((*range(ranks), *reversed(range(ranks))),))


def bidirectional(ranks: int, microbatches: int) -> Placement:
    """One chunk: the first half of the micro-batches goes down the ranks, the others come up.

    >>> [bidirectional(ranks=2, microbatches=2)(0, mb) for mb in range(2)]
    [0, 1]
    """
    turned = microbatches // 2
    down, up = tuple(range(ranks)), tuple(reversed(range(ranks)))
    return Placement(ranks, (down,) * (microbatches - turned) + (up,) * turned)
