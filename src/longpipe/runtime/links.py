"""How fast messages travel between neighbouring ranks."""

from statistics import median
from time import perf_counter

import torch

from longpipe.cost import Link
from longpipe.ir import Program
from longpipe.runtime.boundary import Boundary
from longpipe.runtime.store import Store, exchange
from longpipe.runtime.transport import Direction, Transport, edges_of

_ROUNDS = 9
_FASTEST = 1e12  # bytes/s; noise must not make a link infinitely fast


def measure_links(
    program: Program, rank: int, boundary: Boundary, transport: Transport, store: Store
) -> dict[tuple[int, int], Link]:
    """Latency and rate between all ranks that exchange messages, known to every rank.

    Pairs take turns at a ping-pong of one element and of the largest message, medians of 9. All
    ranks call it at the same point, once.
    """
    edges = edges_of(program)
    directions = {(source, destination): d for source, destination, d in reversed(edges)}
    pairs = sorted({(min(a, b), max(a, b)) for a, b, _ in edges})
    segment = max(boundary.segments[0], key=lambda segment: segment.tokens)
    largest = boundary.batch * segment.tokens * boundary.hidden
    mine: list[tuple[int, int, float, float]] = []
    for low, high in pairs:
        if rank not in (low, high):
            continue
        out, back = directions[low, high], directions[high, low]
        ends = (out, back) if rank == low else (back, out)
        seconds = [
            _half_round_trip(transport, high if rank == low else low, ends, rank == low, buffer)
            for buffer in (_buffer(1, boundary), _buffer(largest, boundary))
        ]
        if rank == low:
            extra_s = max(seconds[1] - seconds[0], 0.0)
            nbytes = (largest - 1) * boundary.dtype.itemsize
            rate = nbytes / extra_s if extra_s > nbytes / _FASTEST else _FASTEST
            mine.append((low, high, seconds[0], rate))
    links: dict[tuple[int, int], Link] = {}
    for rows in exchange(store, "links", rank, program.problem.ranks, mine):
        for low, high, latency_s, bytes_per_s in rows:
            links[low, high] = links[high, low] = Link(latency_s, bytes_per_s)
    return links


def _buffer(elements: int, boundary: Boundary) -> torch.Tensor:
    return torch.zeros(elements, dtype=boundary.dtype, device=boundary.device)


def _half_round_trip(
    transport: Transport,
    peer: int,
    ends: tuple[Direction, Direction],
    serves: bool,
    buffer: torch.Tensor,
) -> float:
    """Median seconds of half a ping-pong with `peer`; `ends` are the ways out and back."""
    out, back = ends
    rounds = []
    for _ in range(_ROUNDS):
        arriving = torch.empty_like(buffer)
        begin_s = perf_counter()
        handle = transport.post_receive(peer, back, arriving)
        if serves:
            transport.send(peer, out, buffer)
        handle.wait()
        if buffer.device.type == "cuda":
            torch.cuda.synchronize(buffer.device)
        if not serves:
            transport.send(peer, out, buffer)
        rounds.append((perf_counter() - begin_s) / 2)
    transport.drain()
    return median(rounds)
