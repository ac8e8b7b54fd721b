"""The end of a step: what all ranks together know of it, and what the optimizer makes of that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch.optim import AdamW

from longpipe.errors import RunError
from longpipe.train.checkpoint import latest
from longpipe.train.job import Job
from longpipe.train.optim import clip, norm_of, set_learning_rate
from longpipe.train.part import Part
from longpipe.train.peers import Peers


@dataclass(frozen=True, slots=True)
class Ran:
    """A step whose gradients are complete, as every rank knows it."""

    step: int
    scale: float
    """1 / (valid tokens of the global batch)"""
    lr: float


class Row(NamedTuple):
    """What one rank has to tell of a step; all numbers, since they travel in a tensor."""

    square: float
    """Of its gradients: `sum_of_squares`."""
    loss_sum: float
    peak_bytes: float
    asked: float
    """1 if its user wants to stop."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from the rows of ranks 0 to some rank: of all, it is the step's."""

    ran: Ran
    loss: float
    norm: float
    peak_bytes: int
    asked: bool
    max_norm: float

    @classmethod
    def of(cls, ran: Ran, rows: Sequence[Row], max_norm: float) -> "Outcome":
        """The same bits on every rank. `max_norm` 0: no clipping."""
        squares, losses, peaks, asked = zip(*rows, strict=True)
        loss = sum(losses) * ran.scale
        return cls(ran, loss, norm_of(squares), int(max(peaks)), any(asked), max_norm)

    @property
    def finite(self) -> bool:
        """Whether there is an update at all."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)

    @property
    def plain(self) -> bool:
        """Whether the update is that of the gradients as they are."""
        return self.finite and not (self.max_norm and self.norm > self.max_norm)


class Update:
    """Steps the optimizer of one rank as an outcome says."""

    def __init__(
        self, job: Job, peers: Peers, part: Part, optimizer: AdamW, say: Callable[[str], None]
    ) -> None:
        self.max_norm = job.config.optim.clip_norm
        self._job = job
        self._peers = peers
        self._part = part
        self._optimizer = optimizer
        self._say = say

    def together(self, ran: Ran, row: Row) -> Outcome:
        """Wait for the rows of all ranks and apply the outcome; every rank calls it."""
        rows = self._peers.share(row, f"the loss and the gradients of step {ran.step}")
        outcome = Outcome.of(ran, [Row(*each) for each in rows], self.max_norm)
        self.apply(outcome)
        return outcome

    def apply(self, outcome: Outcome) -> None:
        """Clip and step, or go on without the update, or stop; all ranks alike.

        Raises:
            RunError: the loss or the norm is not finite, and the policy is to stop.
        """
        if not outcome.finite:
            self._not_finite(outcome)
            return
        clip(self._part.parameters, outcome.norm, self.max_norm)
        self.step(outcome.ran)

    def step(self, ran: Ran) -> None:
        """Step with the gradients as they are."""
        set_learning_rate(self._optimizer, ran.lr)
        self._optimizer.step()
        self.refresh()

    def refresh(self) -> None:
        """After every change of the weights."""
        self._part.refresh()

    def _not_finite(self, outcome: Outcome) -> None:
        bad = (
            name
            for name, parameter in self._part.parameters.items()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        )
        found = self._peers.gather(next(bad, None), "looking for numbers that are not finite")
        where = next(
            (
                f", first on rank {rank} in the gradient of {name}"
                for rank, name in enumerate(found)
                if name is not None
            ),
            "",
        )
        text = (
            f"step {outcome.ran.step}: loss {outcome.loss:g}, gradient norm {outcome.norm:g}{where}"
        )
        if self._job.config.train.nan_policy == "skip":
            self._say(f"{text}: the update is left out (train.nan_policy = skip)")
            return
        newest = latest(self._job.checkpoints)
        kept = (
            f"The newest checkpoint, {newest}, is complete" if newest else "No checkpoint was due"
        )
        raise RunError(
            f"{text}. {kept}; the weights have not been touched by this step. Lower optim.lr, look "
            'at the data of this step, or set train.nan_policy = "skip" to leave such updates out'
        )
