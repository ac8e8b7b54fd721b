"""The zero-bubble search: candidates from several makers, the best improved and picked."""

from collections.abc import Iterable, Sequence

from longpipe.schedules._zb_greedy import GRID, Knobs, heuristic
from longpipe.schedules._zb_improve import Score, improve
from longpipe.schedules._zb_ready import RULES, as_ready
from longpipe.schedules._zb_streams import Letters, Outcome, Streams, fits, run

_STEPS = 300_000  # ops run by the improvement step in all: about a quarter of a second
_STARTS = 2  # candidates that it starts from
_FEWEST_RUNS = 20  # below these it finds next to nothing
_MANY_OPS = 300_000  # above these there are fewer candidates, so that a million ops stay a minute
_FEW_KNOBS = (Knobs(True, True, True), Knobs(True, False, True))


def search(streams: Streams, by_hand: Sequence[Letters]) -> Letters:
    """The rows of least span, then makespan, that fit the limit.

    `by_hand` are orders that enter where they fit; one of them must. No result has a longer span
    or makespan than the best (least span, then makespan) of the paper's heuristic; over segments,
    which the paper does not have, large problems try two of its eight knob settings.
    """
    large = streams.ops > _MANY_OPS
    knobs = _FEW_KNOBS if large and streams.problem.segments_max > 1 else GRID
    published = _outcomes(streams, (heuristic(streams, each) for each in knobs))
    found = _outcomes(streams, by_hand) | published
    if not large:
        found |= _outcomes(streams, (as_ready(streams, rule) for rule in RULES))
    score = _score(list((published or found).values()), list(found.values()))
    best = sorted(found, key=lambda rows: score(found[rows]))[:_STARTS]
    runs = _STEPS // (streams.ops * _STARTS)
    if runs >= _FEWEST_RUNS:
        found |= _outcomes(streams, (improve(streams, rows, score, runs) for rows in best))
    # Of equally good orders the one that people know: the first made by hand, if it is among them.
    return min(found, key=lambda rows: score(found[rows])[:-1])


def _outcomes(streams: Streams, candidates: Iterable[Letters | None]) -> dict[Letters, Outcome]:
    """The candidates that there are, that fit and that run to their end, once each."""
    found: dict[Letters, Outcome] = {}
    for rows in candidates:
        if rows is not None and rows not in found and fits(streams, rows):
            times = run(streams, rows)
            if times is not None:
                found[rows] = times.outcome
    return found


def _score(published: Sequence[Outcome], found: Sequence[Outcome]) -> Score:
    """What the search minimises, first things first.

    How much longer than the heuristic's best the span and the makespan are; then the same against
    the least of each that any candidate has, so that the result is at least as good as all of them
    wherever that can be; then span, makespan, and the sum of the ranks' ends.
    """
    bar = min(published)
    least = min(each.span for each in found), min(each.makespan for each in found)

    def score(each: Outcome) -> tuple[float, ...]:
        worse = max(each.span - bar.span, 0) + max(each.makespan - bar.makespan, 0)
        above = max(each.span - least[0], 0) + max(each.makespan - least[1], 0)
        return worse, above, *each

    return score
