"""The one loop that runs rows in an order which their needs allow."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from longpipe.errors import ScheduleError
from longpipe.ir.deps import provides
from longpipe.ir.op import Op

Needs = Callable[[Op], Iterable[Op]]


def walk(rows: Sequence[Sequence[Op]], needs: Needs) -> Iterator[tuple[int, Op, tuple[Op, ...]]]:
    """Yield every (rank, op, what it needed) so that each op comes after all it needs.

    Each rank runs its row in order and waits where a need is not there yet. Time and memory grow
    linearly with the ops. Raises ScheduleError that names the chain of waits when no rank can go
    on (a cycle, or a need that nobody provides).
    """
    done: set[Op] = set()
    asleep: dict[Op, list[int]] = {}  # need -> ranks that wait for it
    position = [0] * len(rows)
    ready = list(reversed(range(len(rows))))
    while ready:
        rank = ready.pop()
        row = rows[rank]
        for index in range(position[rank], len(row)):
            op = row[index]
            needed = tuple(needs(op))
            missing = None
            for need in needed:
                if need not in done:
                    missing = need
                    break
            if missing is not None:
                position[rank] = index
                asleep.setdefault(missing, []).append(rank)
                break
            yield rank, op, needed
            result = provides(op)
            done.add(result)
            if result in asleep:
                ready += asleep.pop(result)
        else:
            position[rank] = len(row)
    if any(position[rank] < len(row) for rank, row in enumerate(rows)):
        raise ScheduleError(_explain(rows, position, asleep))


def _explain(rows: Sequence[Sequence[Op]], position: list[int], asleep: dict[Op, list[int]]) -> str:
    """Follow the waits from the first stuck rank until they close a cycle or end at nobody."""
    waits = {rank: need for need, ranks in asleep.items() for rank in ranks}
    place = {
        provides(op): (rank, index)
        for rank, row in enumerate(rows)
        for index, op in enumerate(row)
        if index >= position[rank]
    }
    rank = min(waits)
    seen: list[int] = []
    links: list[str] = []
    while rank not in seen:
        seen.append(rank)
        need = waits[rank]
        here = f"rank {rank}, op {position[rank]} ({rows[rank][position[rank]]})"
        if need not in place:
            links.append(f"{here} waits for {need}, which no rank runs")
            return "the order can never finish: " + "; ".join(links) + ". Add the missing op."
        owner, index = place[need]
        links.append(f"{here} waits for {rows[owner][index]}, op {index} of rank {owner}")
        rank = owner
    start = seen.index(rank)
    cycle = "; ".join(links[start:])
    first = rows[rank][position[rank]]
    return (
        f"deadlock, each waits for the next: {cycle}; and that is where it began. "
        f"Move {first} later on rank {rank}, or what it waits for earlier."
    )
