"""Where to cut a sequence into segments.

In a causal model a later token attends to more keys, so that segments of equal length differ in
cost, and a pipeline runs at the speed of its slowest. Cuts of equal cost: Seq1F1B
(arXiv:2406.03488), there found by a recurrence from the end; here in closed form.
"""

from itertools import pairwise
from math import sqrt

from longpipe.errors import PlanError


def equal_cost_cuts(
    tokens: int, segments: int, *, linear: float, pair: float, multiple: int = 1
) -> tuple[int, ...]:
    """Lengths, in tokens, of segments that cost the same, first to last.

    `linear` is the cost of a token (in any unit), `pair` that of a query-key pair, so that the
    first P tokens cost `linear * P + pair * P**2 / 2`; `longpipe.cost.coefficients` has them in
    FLOPs. The exact borders are rounded to the nearest multiple of `multiple`, so that each segment
    keeps at least one. Raises PlanError if the tokens do not suffice or divide.

    >>> equal_cost_cuts(4096, 4, linear=1.0, pair=0.001, multiple=128)
    (1664, 1024, 768, 640)
    """
    _check(tokens, segments, multiple)
    if linear < 0 or pair < 0 or linear + pair == 0:
        raise PlanError(
            f"costs of a token and of a pair must be 0 or more and not both 0, got "
            f"linear={linear} and pair={pair}: use even_cuts for segments of equal length"
        )
    whole = linear * tokens + pair * tokens * tokens / 2
    borders = [0]
    for index in range(1, segments):
        prefix = whole * index / segments
        # The root of pair/2 P^2 + linear P = prefix, in the form that also holds for pair = 0.
        exact = 2 * prefix / (linear + sqrt(linear * linear + 2 * pair * prefix))
        least = borders[-1] + multiple
        most = tokens - (segments - index) * multiple
        borders.append(min(max(round(exact / multiple) * multiple, least), most))
    return tuple(stop - start for start, stop in pairwise((*borders, tokens)))


def even_cuts(tokens: int, segments: int, multiple: int = 1) -> tuple[int, ...]:
    """Lengths, in tokens, as equal as `multiple` allows; earlier segments get what is left over.

    >>> even_cuts(10, 4)
    (3, 3, 2, 2)
    """
    _check(tokens, segments, multiple)
    each, left = divmod(tokens // multiple, segments)
    return tuple((each + (index < left)) * multiple for index in range(segments))


def checked_cuts(lengths: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """The lengths as given, if they cover a sequence of `tokens` exactly; PlanError otherwise."""
    if not lengths or min(lengths) < 1:
        raise PlanError(f"every segment needs at least one token, got lengths {list(lengths)}")
    if sum(lengths) != tokens:
        missing = tokens - sum(lengths)
        raise PlanError(
            f"segment lengths {list(lengths)} add up to {sum(lengths)} tokens, the sequence has "
            f"{tokens}: {'add' if missing > 0 else 'take away'} {abs(missing)}"
        )
    return lengths


def _check(tokens: int, segments: int, multiple: int) -> None:
    for name, value in (("tokens", tokens), ("segments", segments), ("multiple", multiple)):
        if value < 1:
            raise PlanError(f"{name} must be at least 1, got {value}")
    if tokens % multiple:
        near = tokens - tokens % multiple
        raise PlanError(
            f"{tokens} tokens are no multiple of {multiple}: use a sequence length of "
            f"{near or multiple} or {near + multiple}, or a multiple that divides {tokens}"
        )
    if tokens < segments * multiple:
        raise PlanError(
            f"{tokens} tokens cannot make {segments} segments of at least {multiple}: use at most "
            f"{tokens // multiple} segments, longer sequences, or a smaller multiple"
        )
