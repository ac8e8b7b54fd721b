"""The model of the benchmarks, and for every registered schedule a problem that it takes."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product

from longpipe import ProblemError
from longpipe.cost import DecoderShape
from longpipe.ir import Costs, Problem, Schedule
from longpipe.schedules import Entry, Option

LLAMA_7B = DecoderShape(
    hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, intermediate=11008, vocab=32000
)
_OPTIONS: Mapping[str, Option] = {"group": 2}  # one in a group would be 1F1B


def problems(entry: Entry, ranks: int, microbatches: int, segments: int) -> Iterator[Problem]:
    """The problem asked for, then others that a schedule with conditions may take."""
    chunks = 2 if entry.chunks is None else entry.chunks
    segmented = (segments, ranks, 1) if entry.segments else (1,)
    for k, m in product(segmented, (microbatches, 2 * ranks, ranks)):
        yield Problem(ranks, m, chunks, k)


def build_first(
    entry: Entry,
    ranks: int,
    microbatches: int,
    segments: int,
    costs: Callable[[Problem], Costs] | None = None,
) -> Schedule:
    """The schedule on the first of `problems` that it takes; raises its last refusal.

    `costs` gives the cost model of a problem to schedules that search.
    """
    options = {name: value for name, value in _OPTIONS.items() if name in entry.options}
    refusal = ProblemError(f"{entry.name} was offered no problem")
    for problem in problems(entry, ranks, microbatches, segments):
        try:
            model = costs(problem) if costs is not None and entry.searches else None
            return entry.build(problem, costs=model, **options)
        except ProblemError as error:
            refusal = error
    raise refusal
