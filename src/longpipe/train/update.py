"""The end of a step: what all ranks together know of it, and what the optimizer makes of that."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch.nn import Parameter
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
    """Steps the optimizer of one rank as an outcome says.

    Args:
        peers: all ranks.
        parameters: this rank's.
        optimizer: over them.
        max_norm: of the gradient over all ranks; 0: no clipping.
        refresh: called after every change of the weights.
        not_finite: called on all ranks where an outcome has no update; may raise to stop.
    """

    def __init__(
        self,
        peers: Peers,
        parameters: Mapping[str, Parameter],
        optimizer: AdamW,
        max_norm: float,
        *,
        refresh: Callable[[], None],
        not_finite: Callable[[Outcome], None],
    ) -> None:
        self.max_norm = max_norm
        self.refresh = refresh
        self._peers = peers
        self._parameters = parameters
        self._optimizer = optimizer
        self._not_finite = not_finite

    def together(self, ran: Ran, row: Row) -> Outcome:
        """Wait for the rows of all ranks and apply the outcome; every rank calls it."""
        rows = self._peers.share(row, f"the loss and the gradients of step {ran.step}")
        outcome = Outcome.of(ran, [Row(*each) for each in rows], self.max_norm)
        self.apply(outcome)
        return outcome

    def apply(self, outcome: Outcome) -> None:
        """Clip and step, or leave it to `not_finite`; all ranks alike."""
        if not outcome.finite:
            self._not_finite(outcome)
            return
        clip(self._parameters, outcome.norm, self.max_norm)
        self.step(outcome.ran)

    def step(self, ran: Ran) -> None:
        """Step with the gradients as they are."""
        set_learning_rate(self._optimizer, ran.lr)
        self._optimizer.step()
        self.refresh()


def update_of(
    job: Job, peers: Peers, part: Part, optimizer: AdamW, say: Callable[[str], None]
) -> Update:
    """That of a run's rank; what is not finite stops the run or is skipped, as the config says."""
    return Update(
        peers,
        part.parameters,
        optimizer,
        job.config.optim.clip_norm,
        refresh=part.refresh,
        not_finite=partial(_not_finite, job, peers, part, say),
    )


def _not_finite(
    job: Job, peers: Peers, part: Part, say: Callable[[str], None], outcome: Outcome
) -> None:
    """Stop or go on without the update; says where the first such number is."""
    bad = (
        name
        for name, parameter in part.parameters.items()
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
    )
    found = peers.gather(next(bad, None), "looking for numbers that are not finite")
    where = next(
        (
            f", first on rank {rank} in the gradient of {name}"
            for rank, name in enumerate(found)
            if name is not None
        ),
        "",
    )
    text = f"step {outcome.ran.step}: loss {outcome.loss:g}, gradient norm {outcome.norm:g}{where}"
    if job.config.train.nan_policy == "skip":
        say(f"{text}: the update is left out (train.nan_policy = skip)")
        return
    newest = latest(job.checkpoints)
    kept = f"The newest checkpoint, {newest}, is complete" if newest else "No checkpoint was due"
    raise RunError(
        f"{text}. {kept}; the weights have not been touched by this step. Lower optim.lr, look "
        'at the data of this step, or set train.nan_policy = "skip" to leave such updates out'
    )
