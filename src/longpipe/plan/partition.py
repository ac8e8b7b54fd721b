"""Which layers a stage gets: contiguous runs, so that the slowest rank is as fast as can be."""

from collections.abc import Sequence
from itertools import accumulate

from longpipe.errors import PlanError
from longpipe.ir import Placement


def balanced_layers(
    layers: int, placement: Placement, *, layer: float = 1.0, first: float = 0.0, last: float = 0.0
) -> tuple[int, ...]:
    """Number of layers of each stage, first to last; the busiest rank has as little as can be.

    All layers cost `layer`; the first stage costs `first` on top (embedding), the last one `last`
    (norm, head and loss); any unit. A rank's work is the sum over its stages. Exact for every
    placement: layers are alike, so giving the next one to the rank that would be least busy with
    it is optimal. Ranks first, then the same rule among a rank's stages. Where ranks are equal,
    later ones get more: they hold fewer activations. Ranks that hold the same stages share them.
    Raises PlanError with fewer layers than stages.

    >>> from longpipe.ir import loop, v
    >>> balanced_layers(16, loop(4), last=2)
    (4, 4, 5, 3)
    >>> balanced_layers(16, v(2), last=2)
    (4, 4, 5, 3)
    """
    stages = placement.stages
    _enough(layers, stages)
    extra = [0.0] * stages
    extra[0] += first
    extra[-1] += last
    owned = _owned(placement)
    # Every stage takes one layer; the others go one by one.
    fixed = [len(own) * layer + sum(extra[stage] for stage in own) for own in owned]
    more_of_rank = _fill(layers - stages, fixed, layer)
    counts = [1] * stages
    for own, more in zip(owned, more_of_rank, strict=True):
        for stage, added in zip(own, _fill(more, [extra[s] for s in own], layer), strict=True):
            counts[stage] += added
    return tuple(counts)


def _owned(placement: Placement) -> list[tuple[int, ...]]:
    """The stages of each rank; of ranks that hold the same stages, as replicas, once."""
    held = map(placement.stages_of, range(placement.ranks))
    owned = list(dict.fromkeys(filter(None, held)))
    replicas = {len(placement.ranks_of(stage)) for stage in range(placement.stages)}
    if sum(map(len, owned)) != placement.stages or len(replicas) != 1:
        raise PlanError(
            "the placement puts some stages on more ranks than others: give the layers per stage "
            "explicitly"
        )
    return owned


def checked_layers(counts: Sequence[int], layers: int, stages: int) -> tuple[int, ...]:
    """Layers per stage as given, if every layer lies on exactly one stage; PlanError otherwise."""
    if len(counts) != stages:
        raise PlanError(
            f"layers are given for {len(counts)} stages, the pipeline has {stages} "
            "(ranks * chunks): give one number for each"
        )
    if any(count < 1 for count in counts):
        raise PlanError(f"every stage needs at least one layer, got {list(counts)}")
    if sum(counts) != layers:
        raise PlanError(
            f"layers per stage {list(counts)} add up to {sum(counts)}, the model has {layers}: "
            f"{'add' if sum(counts) < layers else 'remove'} {abs(layers - sum(counts))}"
        )
    return tuple(counts)


def layer_ranges(counts: Sequence[int]) -> tuple[range, ...]:
    """Layer numbers of each stage.

    >>> layer_ranges((2, 3))
    (range(0, 2), range(2, 5))
    """
    stops = tuple(accumulate(counts))
    return tuple(range(stop - count, stop) for stop, count in zip(stops, counts, strict=True))


def _enough(layers: int, stages: int) -> None:
    if layers < stages:
        raise PlanError(
            f"{layers} layers cannot fill {stages} stages: use at most {layers} stages "
            "(fewer ranks or chunks)"
        )


def _fill(layers: int, fixed: Sequence[float], layer: float) -> list[int]:
    """Give out layers one by one, each to the least loaded bin; later bins win ties."""
    counts = [0] * len(fixed)
    for _ in range(layers):
        loads = [load + count * layer for load, count in zip(fixed, counts, strict=True)]
        least = min(range(len(loads)), key=lambda index: (loads[index], -index))
        counts[least] += 1
    return counts
