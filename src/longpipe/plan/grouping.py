"""Which groups and micro-batch sizes of kFkB are worth a try under a memory limit.

Ada-Grouper (arXiv:2303.01675) prunes the pairs (k, micro-batch size) to a Pareto set before a
run: a larger k (our `group`) bears a later network, more sequences in a micro-batch compute more
efficiently, and both cost memory. A pair is dropped if another one that fits has at least as much
of both. All candidates of a set work on the same global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from longpipe.errors import PlanError
from longpipe.ir import Costs, Kind, Op, Placement


@dataclass(frozen=True, slots=True)
class RankMemory:
    """What a rank holds: `static_bytes` whatever it runs (weights, gradients, optimizer state);
    for each sequence `sequence_bytes` from its F to its B, and `scratch_bytes` while an op runs.
    """

    static_bytes: float
    sequence_bytes: float
    scratch_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A group, the sequences of a micro-batch, and what follows: micro-batches, peak by rank."""

    group: int
    sequences: int
    microbatches: int
    peak_bytes: tuple[float, ...]


def in_flight(rank: int, ranks: int, microbatches: int, group: int, segments: int = 1) -> float:
    """The most micro-batches whose activations a rank holds under kfkb (or seq-kfkb).

    >>> [in_flight(rank, ranks=4, microbatches=8, group=2) for rank in range(4)]
    [8.0, 6.0, 4.0, 2.0]
    """
    groups = microbatches * segments // group
    ahead = -(-(segments - gcd(group, segments)) // group)
    return group * min(ranks - rank + ahead, groups) / segments


def memory_of(
    placement: Placement,
    costs: Costs,
    static_bytes: Sequence[float],
    *,
    sequences: int = 1,
    segments: int = 1,
) -> tuple[RankMemory, ...]:
    """Each rank's memory from a cost model whose micro-batches have this many sequences.

    `static_bytes` has a number for each rank. Ops of micro-batch 0 stand for all.
    """
    found = []
    for rank, static in zip(range(placement.ranks), static_bytes, strict=True):
        stages = placement.stages_of(rank)
        ops = [
            Op(kind, stage, 0, seg)
            for kind in (Kind.F, Kind.B)
            for stage in stages
            for seg in range(segments)
        ]
        held = sum(costs.holds(op) for op in ops if op.kind is Kind.F)
        scratch = max(costs.scratch(op) - max(costs.holds(op), 0) for op in ops)
        unit = costs.cell_bytes / sequences
        found.append(RankMemory(static, held * unit, max(scratch, 0) * unit))
    return tuple(found)


def feasible(
    batch: int, memory: Sequence[RankMemory], limit_bytes: float, *, segments: int = 1
) -> tuple[Candidate, ...]:
    """Every pair that divides a batch of this many sequences and fits on every rank.

    Ordered by group, then by sequences.
    """
    found = []
    for sequences in _divisors(batch):
        microbatches = batch // sequences
        for group in _divisors(microbatches * segments):
            peak = _peak(memory, microbatches, sequences, group, segments)
            if max(peak) <= limit_bytes:
                found.append(Candidate(group, sequences, microbatches, peak))
    return tuple(sorted(found, key=lambda each: (each.group, each.sequences)))


def candidates(
    batch: int, memory: Sequence[RankMemory], limit_bytes: float, *, segments: int = 1
) -> tuple[Candidate, ...]:
    """The Pareto set of `feasible`: groups rise, sequences of a micro-batch fall.

    Raises PlanError where not even one sequence in a group of one fits.

    >>> ranks = [RankMemory(static_bytes=10, sequence_bytes=1)] * 2
    >>> [(each.group, each.sequences) for each in candidates(16, ranks, limit_bytes=18)]
    [(1, 4), (2, 2), (4, 1)]
    """
    fitting = feasible(batch, memory, limit_bytes, segments=segments)
    if not fitting:
        least = _peak(memory, batch, 1, 1, segments)
        rank = max(range(len(memory)), key=least.__getitem__)
        raise PlanError(
            f"groups of 1 with 1 sequence in a micro-batch need {least[rank]:.0f} bytes on rank "
            f"{rank}, the limit is {limit_bytes:.0f}: use more ranks, shorter sequences, or "
            "recompute activations"
        )
    frontier: list[Candidate] = []
    for each in reversed(fitting):  # from the largest group on, and there from the most sequences
        if not frontier or each.sequences > frontier[-1].sequences:
            frontier.append(each)
    return tuple(reversed(frontier))


def _peak(
    memory: Sequence[RankMemory], microbatches: int, sequences: int, group: int, segments: int
) -> tuple[float, ...]:
    ranks = len(memory)
    held = (in_flight(rank, ranks, microbatches, group, segments) for rank in range(ranks))
    return tuple(
        each.static_bytes + sequences * (count * each.sequence_bytes + each.scratch_bytes)
        for each, count in zip(memory, held, strict=True)
    )


def _divisors(count: int) -> list[int]:
    return [size for size in range(1, count + 1) if count % size == 0]
