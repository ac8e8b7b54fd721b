"""How build, validate and simulate grow with the number of ops: `make bench-simulator`."""

from itertools import pairwise
from time import process_time

from rich.console import Console
from rich.table import Table

from longpipe import Problem, UniformCosts, build, measure, simulate, validate

SIZES = ((8, 625), (8, 6_250), (8, 62_500))


def main() -> None:
    """Time 1F1B and Seq1F1B at three sizes, in CPU seconds of one process."""
    table = Table("schedule", "ops", "build s", "validate s", "simulate s", "us per op")
    for name, segments in (("1f1b", 1), ("seq1f1b", 5)):
        for ranks, units in SIZES:
            problem = Problem(ranks, units // segments, segments=segments)
            times = [process_time()]
            schedule = build(name, problem)
            times.append(process_time())
            validate(schedule)
            times.append(process_time())
            timeline = simulate(schedule, UniformCosts(problem))
            times.append(process_time())
            assert measure(timeline).ops == schedule.ops, "every op was simulated"
            spent = [after - before for before, after in pairwise(times)]
            each = f"{spent[2] / schedule.ops * 1e6:.1f}"
            table.add_row(name, f"{schedule.ops:,}", *(f"{s:.2f}" for s in spent), each)
    Console().print(table)


if __name__ == "__main__":
    main()
