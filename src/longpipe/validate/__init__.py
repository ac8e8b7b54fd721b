"""Is a schedule right? One file per concern; `validate` asks them all.

Read in this order: `spec`, `complete`, `order`, `pairs`, then for programs `messages`, `channels`.
"""

from longpipe.errors import ProblemError, ScheduleError
from longpipe.ir import Program, Schedule
from longpipe.validate.channels import check_channels, check_progress
from longpipe.validate.complete import Places, check_complete
from longpipe.validate.memory import validate_memory as validate_memory
from longpipe.validate.messages import check_messages
from longpipe.validate.order import check_order, check_recompute
from longpipe.validate.pairs import check_pairs
from longpipe.validate.sharding import check_sharding
from longpipe.validate.spec import check_spec


def validate(what: Schedule | Program, *, buffers: int = 0) -> None:
    """Prove that a schedule or program is complete, exact in its order, and free of deadlock.

    A Schedule is checked as compute alone. A Program also for its messages: one SEND and RECV
    for each result that crosses to another rank, in one order on each channel, and no deadlock
    while `buffers` messages of a channel may be under way without a posted RECV. The default, 0,
    is the strictest (SEND blocks until the peer has posted its RECV, as large messages do): what
    passes it passes every other number. Pairs, if there are any, must be fit to run as one op.

    Raises ScheduleError with the first fault: rank, position, the ops, and what to change. Time
    and memory grow linearly with the ops.

    >>> from longpipe.ir import Kind, Op, Problem, Schedule, loop
    >>> forward, backward = Op(Kind.F, stage=0, mb=0), Op(Kind.B, stage=0, mb=0)
    >>> validate(Schedule("", Problem(ranks=1, microbatches=1), loop(1), ((forward, backward),)))
    """
    if buffers < 0:
        raise ProblemError(f"buffers counts messages under way, at least 0, got {buffers}")
    check_spec(what)
    places = check_complete(what)
    check_sharding(what)
    if isinstance(what, Schedule):
        check_order(what, places)
        check_pairs(what, places)
        return
    try:
        _check_transport(what, places, buffers)
    except ScheduleError:
        check_order(what, places)  # where the compute order is at fault, that says more
        raise
    check_pairs(what, places)
    check_recompute(what, places)


def _check_transport(program: Program, places: Places, buffers: int) -> None:
    check_messages(program, places)
    check_progress(program, places, check_channels(program, places), buffers)
