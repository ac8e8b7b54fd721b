"""One exchange at the start: do all ranks mean the same program, shapes and types?

A message that is larger than its receive buffer kills a gloo process without an exception, and a
smaller one fills the front of the buffer in silence; so a difference must be found before.
"""

from collections.abc import Mapping
from hashlib import sha256

from longpipe.errors import RunError
from longpipe.ir import Program
from longpipe.runtime.boundary import Boundary
from longpipe.runtime.store import Store, exchange


def facts_of(program: Program, boundary: Boundary) -> dict[str, str]:
    """What must be equal on every rank of a pipeline, each as a short text."""
    rows = "\n".join(" ".join(map(str, row)) for row in program.rows)
    cuts = repr([[(s.start, s.stop) for s in slices] for slices in boundary.segments])
    return {
        "program": f"{program.name} {_digest(rows)}",
        "placement": _digest(repr(program.placement)),
        "segment cuts": _digest(cuts),
        "message shape": f"batch {boundary.batch}, hidden {boundary.hidden}",
        "message dtype": str(boundary.dtype),
    }


def agree(store: Store, rank: int, ranks: int, facts: Mapping[str, str]) -> None:
    """Compare `facts` over all ranks through `store`; every rank calls it once.

    Raises RunError, on all ranks alike, that names the facts that differ and who differs from
    rank 0.
    """
    all_facts = exchange(store, "agree", rank, ranks, dict(facts))
    first = all_facts[0]
    differing = [
        f"rank {other} has {fact} {theirs.get(fact)!r}, rank 0 has {first.get(fact)!r}"
        for other, theirs in enumerate(all_facts)
        for fact in sorted({*first, *theirs})
        if theirs.get(fact) != first.get(fact)
    ]
    if differing:
        raise RunError(
            f"the ranks do not agree on what to run: {'; '.join(differing)}. "
            "Start all of them with the same plan and configuration"
        )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
