"""What a message costs, and gathering or reducing sharded weights."""

from dataclasses import dataclass

from longpipe.errors import PlanError


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between two ranks: seconds before the first byte, then bytes per second.

    >>> Link(latency_s=0.25, bytes_per_s=1000).seconds(500)
    0.75
    """

    latency_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        if not (self.latency_s >= 0 and self.bytes_per_s > 0):
            raise PlanError(
                f"a link needs a latency of 0 s or more and a rate above 0 bytes/s, got {self}"
            )

    def seconds(self, size_bytes: float) -> float:
        """From handing over a message of `size_bytes` until it lies on the other rank."""
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of the pipeline, over which each stage's weights are sharded, and what joins them.

    >>> Copies(count=4, link=Link(latency_s=0.25, bytes_per_s=1000)).seconds(400)
    0.55
    """

    count: int
    link: Link

    def __post_init__(self) -> None:
        if self.count < 1:
            raise PlanError(f"weights are sharded over at least 1 copy, got {self.count}")

    def seconds(self, size_bytes: float) -> float:
        """To gather or reduce-scatter `size_bytes`: each copy moves all but its own part."""
        return self.link.seconds(size_bytes * (self.count - 1) / self.count)
