"""The size of the pipeline's work: ranks, micro-batches, chunks and segments."""

from collections.abc import Iterator
from dataclasses import dataclass

from longpipe.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Problem:
    """What a schedule must order: `ranks * chunks` stages times every (micro-batch, segment).

    `segments` is one count for all micro-batches, or a tuple with a count for each.

    >>> problem = Problem(ranks=4, microbatches=2, chunks=2, segments=3)
    >>> problem.stages, problem.units()[:4]
    (8, ((0, 0), (0, 1), (0, 2), (1, 0)))
    """

    ranks: int
    microbatches: int
    chunks: int = 1
    segments: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        for name in ("ranks", "microbatches", "chunks"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ProblemError(f"{name} must be a whole number of at least 1, got {value!r}")
        counts = self.segments if isinstance(self.segments, tuple) else (self.segments,)
        if any(type(count) is not int or count < 1 for count in counts):
            raise ProblemError(f"segments must be at least 1 each, got {self.segments!r}")
        if isinstance(self.segments, tuple) and len(counts) != self.microbatches:
            raise ProblemError(
                f"segments gives {len(counts)} counts for {self.microbatches} micro-batches: "
                "give one number for all, or one for each"
            )

    @property
    def stages(self) -> int:
        """Stages of the whole model, numbered in data-flow order."""
        return self.ranks * self.chunks

    def segments_of(self, mb: int) -> int:
        """Number of segments of micro-batch `mb`."""
        return self.segments[mb] if isinstance(self.segments, tuple) else self.segments

    @property
    def segments_max(self) -> int:
        """Largest number of segments of any micro-batch."""
        return max(self.segments) if isinstance(self.segments, tuple) else self.segments

    def units(self) -> tuple[tuple[int, int], ...]:
        """Every (mb, seg), micro-batches in order and each one's segments first to last."""
        return tuple(
            (mb, seg) for mb in range(self.microbatches) for seg in range(self.segments_of(mb))
        )

    def backward_units(self) -> tuple[tuple[int, int], ...]:
        """Every (mb, seg), micro-batches in order and each one's segments last to first."""
        return tuple(
            (mb, seg)
            for mb in range(self.microbatches)
            for seg in reversed(range(self.segments_of(mb)))
        )

    def unit_slots(self) -> Iterator[tuple[int, int, int]]:
        """Every (stage, mb, seg), made one by one: absurd counts cost nothing until asked for."""
        return (
            (stage, mb, seg)
            for stage in range(self.stages)
            for mb in range(self.microbatches)
            for seg in range(self.segments_of(mb))
        )
