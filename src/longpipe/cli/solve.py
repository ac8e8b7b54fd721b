"""`longpipe solve`: a proof of how good the searched zero-bubble order is, on a small problem."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from longpipe.cli._app import app
from longpipe.cli._numbers import numbers_json, print_numbers
from longpipe.cli._options import AsJson, Asked, segment_counts
from longpipe.ir import Problem, to_text
from longpipe.plan import Exact, solve_exact
from longpipe.simulate import measure, simulate
from longpipe.view import save_text

_SAY_AGAIN_S = 1.0


@app.command(
    epilog="Example: `longpipe solve --ranks 4 --microbatches 8 --memory-limit 5 "
    "--costs F=1,I=1.2,W=0.8 --comm 0.05`"
)
def solve(
    ranks: Annotated[int, typer.Option(help="Processes in the pipeline.")],
    microbatches: Annotated[int, typer.Option(help="Micro-batches of a step.")],
    segments: Annotated[
        str, typer.Option(help="Segments of each micro-batch: one number, or one for each.")
    ] = "1",
    memory_limit: Annotated[
        float | None,
        typer.Option(
            help="What a rank may hold, in full micro-batches on a full stage; what zb-h1 needs, "
            "if not given."
        ),
    ] = None,
    costs: Annotated[
        str, typer.Option(help="Times of one full micro-batch, such as `F=1,I=1.2,W=0.8`.")
    ] = "F=1,I=1,W=1",
    comm: Annotated[str, typer.Option(help="Time of one message, in the unit of the costs.")] = "0",
    time_limit: Annotated[
        float, typer.Option(min=0.0, help="Seconds after which the best order so far counts.")
    ] = 60.0,
    output: Annotated[
        Path | None, typer.Option(help="File for the order, as text that the other verbs read.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search exactly for the zero-bubble order of least span, one chunk per rank.

    Starts from what zb-auto finds and proves it best, finds a better one, or says how far the
    proof came: the bound is what no order can be better than. Needs `pip install
    'longpipe[exact]'`. Progress goes to the standard error; Ctrl-C ends the search early.
    """
    problem = Problem(ranks, microbatches, 1, segment_counts(segments))
    priced = Asked(name="exact", costs=costs, comm=comm).priced(problem)
    found = solve_exact(
        problem,
        priced,
        memory_limit=memory_limit,
        time_limit_s=time_limit,
        report=_Progress(priced.tick_s),
    )
    if output is not None:
        save_text(output, to_text(found.schedule))
    metrics = measure(simulate(found.schedule, priced))
    if as_json:
        proof = {
            "span": found.cost_ticks * priced.tick_s,
            "bound": found.bound_ticks * priced.tick_s,
            "gap": found.gap,
            "optimal": found.optimal,
            "elapsed_s": found.elapsed_s,
        }
        print(json.dumps(proof | numbers_json(metrics, "peak_activations"), indent=2))
        return
    print(_verdict(found, priced.tick_s))
    print_numbers(metrics, "peak act.")


def _verdict(found: Exact, tick_s: float) -> str:
    span = f"span {found.cost_ticks * tick_s:.6g} in {found.elapsed_s:.1f} s: "
    if found.optimal:
        return span + "optimal, no order is better"
    return (
        span + f"not proven, a better order may exist, of span {found.bound_ticks * tick_s:.6g} at "
        f"the least (gap {found.gap:.1%}); a longer --time-limit may tell"
    )


class _Progress:
    """Says on the standard error how far the search is, at most once a second."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._said_s = 0.0
        self._console = Console(stderr=True)

    def __call__(self, elapsed_s: float, cost_ticks: float, bound_ticks: float) -> None:
        if elapsed_s - self._said_s < _SAY_AGAIN_S:
            return
        self._said_s = elapsed_s
        cost, bound = cost_ticks * self._tick_s, bound_ticks * self._tick_s
        gap = (cost - bound) / cost if cost else 0.0
        self._console.print(
            f"{elapsed_s:.0f} s: span {cost:.6g}, bound {bound:.6g}, gap {gap:.1%}",
            highlight=False,
        )
