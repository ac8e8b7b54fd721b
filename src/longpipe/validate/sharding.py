"""Sharded weights: whole where an op reads them, and every gradient reduced."""

from longpipe.errors import ScheduleError
from longpipe.ir import COMPUTE, SHARDING, WEIGHT_GRAD, Kind, Op, Program, Schedule


def check_sharding(what: Schedule | Program) -> None:
    """Walk each row with the state of its stages; raise ScheduleError at the first fault.

    A stage that a rank gathers somewhere (UNSHARD) begins the step sharded. It is gathered once at
    a time and not for nothing, each of its compute ops finds it whole (W too: gradients are those
    of whole weights, and torch's runtime wants the same), and it ends the step sharded, since the
    optimizer changes shards. A stage that a rank gathers or reduces has a REDUCE_GRAD after its
    last B or W, and none without a new B or W before it (what an I adds to biases and norms waits
    for the one of its W). A stage with neither is not sharded.
    """
    seen: dict[Op, int] = {}  # rank of each sharding op
    for rank, row in enumerate(what.rows):
        here = {op for op in row if op.kind in SHARDING}
        if here:
            stages = what.placement.stages_of(rank)
            for position, op in enumerate(row):
                if op.kind in SHARDING:
                    _check_op(rank, position, op, stages, seen)
            _Row(rank, row, here).check()


def _check_op(rank: int, at: int, op: Op, stages: tuple[int, ...], seen: dict[Op, int]) -> None:
    if op.stage not in stages or op.seg:
        raise ScheduleError(
            f"rank {rank}, op {at}: {op} names no stage of this rank, which holds "
            f"{', '.join(map(str, stages))}, or a segment: delete it, or write "
            f"<stage>{op.kind.value}<number>"
        )
    if op in seen:
        raise ScheduleError(
            f"rank {rank}, op {at}: {op} is there twice, first on rank {seen[op]}: "
            f"number every {op.kind.value} of a stage differently"
        )
    seen[op] = rank


class _Row:
    """The state of one rank's stages as its row runs."""

    def __init__(self, rank: int, row: tuple[Op, ...], here: set[Op]) -> None:
        self._rank = rank
        self._row = row
        self._sharded = {op.stage for op in here if op.kind is not Kind.REDUCE_GRAD}
        self._reduced = {op.stage for op in here}
        self._whole: dict[int, int] = {}  # position of the UNSHARD
        self._unread: set[int] = set()  # gathered, but no op has used them yet
        self._due: dict[int, int] = {}  # position of the last gradient not yet reduced

    def check(self) -> None:
        """Raise ScheduleError at the first fault."""
        for position, op in enumerate(self._row):
            if op.kind in COMPUTE:
                self._compute(position, op)
            elif op.kind in SHARDING:
                self._shard(position, op)
        for stage, position in self._due.items():
            self._fail(
                position,
                "makes a gradient that no REDUCE_GRAD after it adds up over the copies",
                f"add {stage}REDUCE_GRAD after it",
            )
        for stage, position in self._whole.items():
            self._fail(
                position,
                f"leaves stage {stage} whole at the end of the step, and the optimizer changes "
                "its shards",
                f"add {stage}RESHARD after its last op",
            )

    def _compute(self, position: int, op: Op) -> None:
        if op.stage in self._sharded and op.stage not in self._whole:
            self._fail(position, "finds its weights sharded", f"put {op.stage}UNSHARD before it")
        self._unread.discard(op.stage)
        if op.kind in WEIGHT_GRAD and op.stage in self._reduced:
            self._due[op.stage] = position

    def _shard(self, position: int, op: Op) -> None:
        stage = op.stage
        if op.kind is Kind.UNSHARD:
            if stage in self._whole:
                first = self._row[self._whole[stage]]
                self._fail(
                    position,
                    f"gathers what {first} (op {self._whole[stage]}) has gathered",
                    f"delete it, or put {stage}RESHARD between the two",
                )
            self._whole[stage] = position
            self._unread.add(stage)
        elif op.kind is Kind.RESHARD:
            if self._whole.pop(stage, None) is None:
                self._fail(position, "frees weights that are not whole", "delete it")
            if stage in self._unread:
                self._fail(
                    position, "frees weights that no op has read", "delete it and its UNSHARD"
                )
        elif self._due.pop(stage, None) is None:
            self._fail(
                position, "has no new gradient to reduce", f"put it after a backward of {stage}"
            )

    def _fail(self, position: int, fault: str, remedy: str) -> None:
        raise ScheduleError(
            f"rank {self._rank}, op {position}: {self._row[position]} {fault}: {remedy} "
            "(passes.add_sharding places every sharding op)"
        )
