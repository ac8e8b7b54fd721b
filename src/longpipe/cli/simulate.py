"""`longpipe simulate`: the numbers that a schedule promises."""

import json

from longpipe.cli._app import app
from longpipe.cli._numbers import numbers_json, print_numbers
from longpipe.cli._options import AsJson, Asked, takes_schedule
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
        }
        print(json.dumps(size | numbers_json(metrics, "peak_activations"), indent=2))
    else:
        print_numbers(metrics, "peak act.")
