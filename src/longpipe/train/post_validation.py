"""The optimizer steps before all ranks have told: post-validation (arXiv:2401.10241, section 4).

The norm over all ranks, and whether a number on one of them is not finite, would make every rank
wait for the last one at the end of each step. Instead:

- End of a step, rank 0 to p-1: a rank adds its row to those of the ranks before it, hands them on,
  and steps if what they say together is plain (finite, nothing to clip).
- Rank p-1 then has all rows and sends them to every rank, which reads them in the next step, after
  its early forwards (`early_ops`). Where an update was not to be made as it is, every rank takes it
  back, drops the forwards that it ran with wrong weights, clips and steps (or leaves the step out),
  and starts the forwards anew.

The paper's words: partial state -> the rows of ranks 0 to r; fully reduced state -> all rows;
roll-back -> taking back. In the paper all rows go back from rank to rank; here no rank waits until
the one after has reached the place where it hands them on. The paper inverts AdamW; that is not
exact (nothing brings back a second average that is far below the new square), so a copy is kept
here of all that an update changes. The rows travel, not their sum: the norm has the bits of the one
that `Update.together` finds.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from longpipe.runtime import Direction, Transport
from longpipe.train.peers import Peers
from longpipe.train.update import Outcome, Ran, Row, Update


class Undo:
    """A copy of tensors that an update changes in place; as much memory as they take."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._live = [tensor.detach() for tensor in tensors]
        self._kept = [torch.empty_like(tensor) for tensor in self._live]

    def keep(self) -> None:
        """Copy the tensors as they are."""
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live)

    def restore(self) -> None:
        """Bring back the bits that `keep` found."""
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)


class PostValidation:
    """Ends the steps of one rank: `end`, and in the next step, if `pending`, `hear` and `settle`.

    Args:
        update: applies outcomes.
        undo: holds what an update changes; of nothing on the last rank, which knows all in time.
        transport: carries the rows, and nothing else.
        after: steps in a row must have been plain before ranks step without waiting.
        waiting: tells the watchdog what this rank waits for.
    """

    def __init__(
        self,
        update: Update,
        undo: Undo,
        transport: Transport,
        rank: int,
        ranks: int,
        *,
        after: int,
        waiting: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.pending: Ran | None = None
        self._update = update
        self._undo = undo
        self._transport = transport
        self._rank = rank
        self._ranks = ranks
        self._last = rank + 1 == ranks
        self._after = after
        self._waiting = waiting
        self._told = torch.zeros(ranks, len(Row._fields), dtype=torch.float64)
        self._stepped = False  # whether `pending`'s update has been made
        self._plain = 0  # steps in a row
        self._early = self._back = self._steps = 0  # steps: not waited for, taken back, all

    @classmethod
    def over(
        cls,
        peers: Peers,
        transport: Transport,
        update: Update,
        changed: Iterable[Tensor],
        *,
        after: int,
    ) -> "PostValidation":
        """That of a run's rank; `changed` are the tensors that an update changes."""
        rank, ranks = peers.rank, peers.ranks
        undo = Undo(() if rank + 1 == ranks else tuple(changed))
        return cls(update, undo, transport, rank, ranks, after=after, waiting=peers.waiting)

    def end(self, ran: Ran, row: Row, *, settle: bool) -> Outcome | None:
        """Tell this rank's row of a step; step, or wait for all ranks and apply the outcome.

        It waits, and returns the outcome, with `settle` (as before a checkpoint) or after a step
        that was not plain. Raises RunError as `Update.apply` does.
        """
        hopeful = not settle and self._plain >= self._after
        self._gather(ran, row, keep=hopeful)
        self.pending = ran
        self._stepped = hopeful and self._outcome(self._rank).plain
        if self._stepped:
            self._update.step(ran)
        if hopeful:
            return None
        outcome = self.hear()
        self.settle(outcome)
        return outcome

    def _gather(self, ran: Ran, row: Row, *, keep: bool) -> None:
        """Get the rows of the ranks before, and hand them on with this rank's own."""
        rows = torch.zeros_like(self._told)
        with self._waiting(f"the gradients of step {ran.step} on the ranks before"):
            self._transport.drain()  # what the step before has sent; it has arrived by now
            arrival = None
            if self._rank:
                arrival = self._transport.post_receive(self._rank - 1, Direction.F, rows)
            if keep:
                self._undo.keep()  # while the rank before may still be at work
            if arrival is not None:
                arrival.wait()
        rows[self._rank] = torch.tensor(row, dtype=torch.float64)
        self._told = rows
        if not self._last:
            self._transport.send(self._rank + 1, Direction.F, rows)
        for rank in range(self._rank if self._last else 0):
            self._transport.send(rank, Direction.B, rows)

    def hear(self) -> Outcome:
        """The outcome of the pending step, once every rank has told its row."""
        assert self.pending is not None, "a step is pending"
        if not self._last:
            self._told = torch.zeros_like(self._told)
            with self._waiting(f"the gradients of step {self.pending.step} on the ranks after"):
                self._transport.post_receive(self._ranks - 1, Direction.B, self._told).wait()
        return self._outcome(self._ranks - 1)

    def stands(self, outcome: Outcome) -> bool:
        """Whether every rank has stepped as the outcome says, so that early forwards are right."""
        return outcome.plain and all(self._outcome(rank).plain for rank in range(self._ranks))

    def settle(self, outcome: Outcome) -> None:
        """Make the pending step's update what it has to be; RunError as `Update.apply`."""
        self.pending = None
        self._steps += 1
        self._plain = self._plain + 1 if outcome.plain else 0
        if self._stepped and outcome.plain:
            self._early += 1
            return
        if self._stepped:
            self._back += 1
            self._undo.restore()
            self._update.refresh()
        self._update.apply(outcome)

    def summary(self) -> str:
        """How often waiting was saved, on this rank."""
        return (
            f"post-validation: in {self._early} of {self._steps} steps the optimizer did not wait "
            f"for all ranks; rank {self._rank} took {self._back} updates back"
        )

    def _outcome(self, rank: int) -> Outcome:
        """By the rows of the ranks up to `rank`."""
        assert self.pending is not None, "a step is pending"
        rows = [Row(*each) for each in self._told[: rank + 1].tolist()]
        return Outcome.of(self.pending, rows, self._update.max_norm)
