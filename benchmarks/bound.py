"""What share of the ideal each order can reach by FLOPs alone: `python -m benchmarks.bound`.

The benchmark's decoder and two micro-batches on a simulated device whose every FLOP takes the same
time, with messages that take none: what is missing to 1 is bubble and imbalance, not overhead.
"""

from rich.console import Console
from rich.table import Table

from benchmarks.peer_longpipe import cuts
from benchmarks.workload import DECODER, Workload
from longpipe import Problem, build, measure, simulate
from longpipe.cost import AnalyticCosts, DecoderShape, Device, Link, Load

ORDERS = (
    ("1f1b", 1, 1),
    ("zb-v", 2, 1),
    *((n, 1, k) for n in ("seq1f1b", "seq-zb-h1") for k in (4, 8, 16)),
)


def main() -> None:
    """Print the share of the ideal, and how much more the slower rank has to do."""
    work = Workload(DECODER, tokens=8192, microbatches=2)
    shape = DecoderShape.from_hf(DECODER.to_hf())
    table = Table("schedule", "segments", "of ideal", "slower rank / mean")
    for name, chunks, segments in ORDERS:
        problem = Problem(2, work.microbatches, chunks, segments)
        lengths = tuple(segment.tokens for segment in cuts(work, segments))
        stages = problem.stages
        load = Load((shape.layers // stages,) * stages, (lengths,) * work.microbatches)
        costs = AnalyticCosts(problem, shape, load, Device(60e9, 0.0), Link(0.0, 1e12))
        found = measure(simulate(build(name, problem), costs))
        mean_s = sum(found.busy_s) / len(found.busy_s)
        table.add_row(
            name,
            str(segments),
            f"{mean_s / found.makespan_s:.3f}",
            f"{max(found.busy_s) / mean_s:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
