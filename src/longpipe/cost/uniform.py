"""Costs that one number per kind describes: the model of the papers' formulas."""

import re
from fractions import Fraction
from math import lcm

from longpipe.errors import PlanError
from longpipe.ir import WEIGHT_GRAD, Kind, Memory, Op, Problem

Number = int | float | str | Fraction

_LEAST, _MOST = Fraction(1, 10**30), 10**30  # ticks and times must fit floats in the end
_RANGE = "use another unit, so that it lies between 1e-30 and 1e30"
_EXPONENT = re.compile(r"[eE][+-]?0*(\d+)")
_DIGITS = 3


class UniformCosts:
    """Every micro-batch and every rank alike; a chunk or a segment costs its even share.

    `forward`, `input_grad` and `weight_grad` are the times of one full micro-batch on one full
    stage (all layers of a rank), a full backward `B` takes `input_grad + weight_grad`. `comm` is
    the latency of one message between two ranks, not divided. `recompute` is the time of R
    (None: that of a forward), `pair` that of a fused pair of F and B or I (None: no pair is
    fused). `gather` and `reduce` are the times to gather the weights of one full stage from its
    shards and to reduce their gradients; a chunk's are its share. All in the user's own unit.

    Memory counts activations conservatively (arXiv:2405.15362): F adds its share, B or W frees
    it, I frees nothing; the unit is one full micro-batch on one full stage. Where an R makes the
    activations again, F keeps `saved` of its share (its input; 0 counts it as nothing).

    Numbers are taken as they are written (1.2 is twelve tenths) and brought to one denominator,
    so that ticks and cells are whole and simulation is exact. Raises PlanError on numbers below 0.

    >>> from longpipe.ir import Kind, Op, Problem
    >>> costs = UniformCosts(Problem(ranks=4, microbatches=8, segments=4), input_grad=1.2)
    >>> costs.ticks(Op(Kind.F, stage=0, mb=0)), costs.ticks(Op(Kind.B, stage=0, mb=0))
    (5, 11)
    >>> costs.tick_s, costs.cell_bytes
    (0.05, 0.25)
    """

    __slots__ = (
        "_cells",
        "_comm",
        "_pairs",
        "_problem",
        "_saved",
        "_shard_ticks",
        "_ticks",
        "cell_bytes",
        "tick_s",
    )

    def __init__(
        self,
        problem: Problem,
        forward: Number = 1,
        input_grad: Number = 1,
        weight_grad: Number = 1,
        comm: Number = 0,
        *,
        recompute: Number | None = None,
        pair: Number | None = None,
        saved: Number = 0,
        gather: Number = 0,
        reduce: Number = 0,
    ) -> None:
        times = {
            Kind.F: _exact("forward", forward),
            Kind.I: _exact("input_grad", input_grad),
            Kind.W: _exact("weight_grad", weight_grad),
            Kind.R: _exact("recompute", forward if recompute is None else recompute),
        }
        times[Kind.B] = times[Kind.I] + times[Kind.W]
        latency = _exact("comm", comm)
        counts = {problem.segments_of(mb) for mb in range(problem.microbatches)}
        shares = {count: Fraction(1, problem.chunks * count) for count in counts}
        exact = {(kind, k): time * shares[k] for kind, time in times.items() for k in counts}
        both = (
            {} if pair is None else {k: _exact("pair", pair) * share for k, share in shares.items()}
        )
        kept = {k: _exact("saved", saved) * share for k, share in shares.items()}
        shards = {
            Kind.UNSHARD: _exact("gather", gather) / problem.chunks,
            Kind.REDUCE_GRAD: _exact("reduce", reduce) / problem.chunks,
        }
        times_of = (latency, *exact.values(), *both.values(), *shards.values())
        ticks = lcm(*(time.denominator for time in times_of))
        cells = lcm(*(share.denominator for share in (*shares.values(), *kept.values())))
        self._problem = problem
        self._ticks = {key: int(time * ticks) for key, time in exact.items()}
        self._pairs = {count: int(time * ticks) for count, time in both.items()}
        self._comm = int(latency * ticks)
        self._shard_ticks = {kind: int(time * ticks) for kind, time in shards.items()}
        self._cells = {count: int(share * cells) for count, share in shares.items()}
        self._saved = {count: int(share * cells) for count, share in kept.items()}
        self.tick_s = 1 / ticks
        self.cell_bytes = 1 / cells

    def ticks(self, op: Op) -> int:
        """Ticks that a compute op takes."""
        return self._ticks[op.kind, self._problem.segments_of(op.mb)]

    def pair_ticks(self, first: Op, second: Op) -> int | None:
        """Ticks of a fused pair; None: as two ops."""
        return self._pairs.get(self._problem.segments_of(first.mb))

    def shard_ticks(self, op: Op) -> int:
        """Ticks that an UNSHARD or a REDUCE_GRAD takes."""
        return self._shard_ticks[op.kind]

    def delay(self, op: Op, source: int, destination: int) -> int:
        """Ticks from the end of `op` until its result lies on the other rank."""
        return self._comm if source != destination else 0

    def holds(self, op: Op) -> int:
        """Cells that stay after the op: F adds its share, B and W free it."""
        cells = self._cells[self._problem.segments_of(op.mb)]
        if op.kind is Kind.F:
            return cells
        return -cells if op.kind in WEIGHT_GRAD else 0

    def scratch(self, op: Op) -> int:
        """Cells above what was held before, at the op's own peak: what F or R adds."""
        if op.kind is Kind.R:
            count = self._problem.segments_of(op.mb)
            return self._cells[count] - self._saved[count]
        return max(self.holds(op), 0)

    def light(self, op: Op) -> Memory:
        """Cells of an F whose activations an R makes again."""
        saved = self._saved[self._problem.segments_of(op.mb)]
        return Memory(saved, saved)


def _exact(name: str, value: Number) -> Fraction:
    """The number as it is written; a float by its shortest decimal form."""
    exponent = _EXPONENT.search(str(value))
    if exponent and len(exponent[1]) > _DIGITS:  # before its digits are written out
        raise PlanError(f"cost {name}={value} is out of range: {_RANGE}")
    try:
        exact = Fraction(str(value) if isinstance(value, float) else value)
    except (ValueError, ZeroDivisionError) as error:
        raise PlanError(f"cost {name}={value!r} is no number: write 1, 1.2 or 6/5") from error
    if exact < 0:
        raise PlanError(f"cost {name}={value} is below 0: times must be 0 or more")
    if exact and not _LEAST <= exact <= _MOST:
        raise PlanError(f"cost {name}={value} is out of range: {_RANGE}")
    return exact
