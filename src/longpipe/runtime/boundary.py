"""What crosses a stage border: shapes that are static facts of the plan."""

from dataclasses import dataclass, field

import torch

from longpipe.errors import PlanError
from longpipe.ir import Problem, Segment


@dataclass(frozen=True, slots=True)
class Boundary:
    """Shape and type of every activation and gradient that a stage hands on.

    `segments[mb]` are the slices of micro-batch `mb`; a message about segment s of it has shape
    [batch, segments[mb][s].tokens, hidden].
    """

    batch: int
    hidden: int
    segments: tuple[tuple[Segment, ...], ...]
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def shape(self, mb: int, seg: int) -> tuple[int, int, int]:
        """[batch, tokens, hidden] of a message."""
        return self.batch, self.segments[mb][seg].tokens, self.hidden

    def empty(self, mb: int, seg: int) -> torch.Tensor:
        """A fresh buffer for one message."""
        return torch.empty(self.shape(mb, seg), dtype=self.dtype, device=self.device)

    def check(self, problem: Problem) -> None:
        """Raise PlanError where the cuts do not fit the Problem."""
        want = tuple(map(problem.segments_of, range(problem.microbatches)))
        got = tuple(map(len, self.segments))
        if got != want:
            raise PlanError(
                f"the problem has {want} segments by micro-batch, the cuts give {got}: "
                "cut each sequence in as many segments as the schedule orders"
            )
