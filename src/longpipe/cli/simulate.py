"""`longpipe simulate`: the numbers that a schedule promises."""

import json
from collections import Counter

from longpipe.cli._app import app
from longpipe.cli._numbers import numbers_json, print_numbers
from longpipe.cli._options import AsJson, Asked, takes_schedule
from longpipe.ir import Kind
from longpipe.simulate import measure
from longpipe.simulate import simulate as run


@app.command(epilog="Example: `longpipe simulate seq1f1b --ranks 4 --microbatches 8 --segments 4`")
@takes_schedule
def simulate(asked: Asked, as_json: AsJson = False) -> None:
    """Predict makespan, bubbles, idle time by reason and peak activations.

    The global bubble is the largest (makespan - busy time) of a rank, the span bubble the largest
    (its first F to its last B or W - busy time). Peaks count full micro-batches on a full stage.
    """
    schedule = asked.schedule()
    metrics = measure(run(schedule, asked.priced(schedule.problem)))
    if as_json:
        problem = schedule.problem
        size = {
            "schedule": schedule.name,
            "ranks": problem.ranks,
            "microbatches": problem.microbatches,
            "chunks": problem.chunks,
            "segments": problem.segments,
            "kinds": [dict(Counter(op.kind for op in row)) for row in schedule.rows],
        }
        print(json.dumps(size | numbers_json(metrics, "peak_activations"), indent=2))
    else:
        print_numbers(metrics, "peak act.")
        for rank, row in enumerate(schedule.rows):
            kinds = Counter(op.kind for op in row)
            if kinds[Kind.UNSHARD]:
                print(f"rank {rank}: {kinds[Kind.UNSHARD]} gathers, ", end="")
                print(f"{kinds[Kind.REDUCE_GRAD]} reductions")
