"""A Problem that a schedule orders, for whoever has none of his own."""

from longpipe.errors import ProblemError
from longpipe.ir import Problem
from longpipe.schedules._registry import Entry


def example(
    entry: Entry, ranks: int = 4, microbatches: int | None = None, segments: int = 1
) -> Problem:
    """The smallest Problem of `ranks` that the schedule orders, from the counts given upwards.

    Micro-batches start at the ranks if not given; chunks are what the schedule needs. Raises
    ProblemError, the schedule's own, where none with at most four times as many is right.

    >>> from longpipe.schedules import entry
    >>> example(entry("1f1b"))
    Problem(ranks=4, microbatches=4, chunks=1, segments=1)
    """
    fewest = ranks if microbatches is None else microbatches
    chunks = 2 if entry.chunks is None else entry.chunks
    refusal = ProblemError(f"{entry.name} orders nothing on {ranks} ranks: use other ranks")
    for count in range(segments, 4 * max(ranks, segments) + 1 if entry.segments else segments + 1):
        for number in range(fewest, 4 * max(ranks, fewest) + 1):
            problem = Problem(ranks, number, chunks, count)
            try:
                entry.build(problem)
            except ProblemError as error:
                refusal = error
            else:
                return problem
    raise refusal
