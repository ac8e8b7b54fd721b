"""`longpipe compare`: every schedule on one model and machine, in time and memory."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from longpipe.cli._app import app
from longpipe.cli._options import AsJson
from longpipe.cost import DecoderShape, Device, Link
from longpipe.errors import ConfigError, DataError, LongpipeError, ProblemError
from longpipe.plan.comparison import Contender, Forecast, Setting, contenders, front
from longpipe.plan.comparison import compare as run

_GIB = 2**30


@app.command(
    epilog="Example: `longpipe compare --model config.json --tokens 131072 --ranks 8 "
    "--microbatches 8`"
)
def compare(
    model: Annotated[Path, typer.Option(help="A Hugging Face `config.json`.")],
    tokens: Annotated[int, typer.Option(help="Length of a sequence, a multiple of 128.")],
    ranks: Annotated[int, typer.Option(help="Pipeline ranks; each may be several devices.")],
    microbatches: Annotated[int, typer.Option(help="Micro-batches of a step, one sequence each.")],
    segments: Annotated[str, typer.Option(help="Segments per sequence to try.")] = "1,2,4,8,16",
    only: Annotated[str, typer.Option(help="Only these schedules, by comma.")] = "",
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory of a rank; what needs more is left out.")
    ] = None,
    tflop_s: Annotated[
        float, typer.Option(help="Speed that a rank reaches, in 10^12 FLOP/s.")
    ] = 400.0,
    overhead_us: Annotated[
        float, typer.Option(help="What each op costs besides, in microseconds.")
    ] = 200.0,
    link_gb_s: Annotated[
        float, typer.Option(help="Speed between two ranks, in 10^9 bytes/s.")
    ] = 50.0,
    latency_us: Annotated[float, typer.Option(help="Latency of a message.")] = 10.0,
    everything: Annotated[
        bool, typer.Option("--all", help="Every size of every schedule, and what was refused.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate every schedule for a model: step time, bubbles, and memory of the busiest rank.

    Segments are cut and layers are placed by equal FLOPs; times are FLOPs over the speed, bytes
    those of bfloat16 tensors, plus 18 for each weight (its gradient and Adam's state). A star marks
    the Pareto front: nothing else is as fast in less memory. Takes minutes, since some schedules
    search for seconds at each size: `--only` and `--segments` make it short.
    """
    setting = Setting(
        _shape(model),
        tokens,
        ranks,
        microbatches,
        Device(tflop_s * 1e12, overhead_us * 1e-6),
        Link(latency_us * 1e-6, link_gb_s * 1e9),
    )
    field = list(contenders(setting, _numbers(segments), filter(None, only.split(","))))
    console = Console(stderr=True)
    found: list[Forecast] = []
    refused: list[tuple[Contender, LongpipeError]] = []
    for contender, what in run(setting, track(field, "simulating", console=console)):
        if isinstance(what, Forecast):
            found.append(what)
        else:
            refused.append((contender, what))
    limit = None if memory_gib is None else memory_gib * _GIB
    best = front(found, limit)
    if as_json:
        print(json.dumps([_facts(one, one in best) for one in found], indent=1))
    elif not best:
        raise ProblemError(_nothing(found, refused))
    else:
        Console().print(_table(found if everything else _leading(found, best, limit), best))
        for contender, why in refused if everything else ():
            Console().print(f"{contender}: {why}", highlight=False, soft_wrap=True)


def _shape(path: Path) -> DecoderShape:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is no config.json: it holds no object")
    return DecoderShape.from_hf(raw)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of whole numbers such as 1,4,16", param_hint="--segments"
        ) from None


def _leading(
    found: Sequence[Forecast], best: Sequence[Forecast], limit: float | None
) -> list[Forecast]:
    """The front, and of every other schedule its fastest size that fits."""
    seen = {one.contender.schedule for one in best}
    rows = list(best)
    for one in sorted(found, key=lambda one: one.step_s):
        fits = limit is None or one.peak_bytes <= limit
        if fits and one.contender.schedule not in seen:
            seen.add(one.contender.schedule)
            rows.append(one)
    return rows


def _table(rows: Sequence[Forecast], best: Sequence[Forecast]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("schedule", no_wrap=True)
    heads = ("step s", "speed", "peak\nGiB", "of it\nactiv.", "global\nbubble", "span\nbubble")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in sorted(rows, key=lambda one: one.step_s):
        table.add_row(
            "*" if one in best else "",
            str(one.contender),
            f"{one.step_s:.4g}",
            f"{best[0].step_s / one.step_s:.1%}",
            f"{one.peak_bytes / _GIB:.1f}",
            f"{one.activation_bytes / _GIB:.1f}",
            f"{one.global_bubble_rate:.1%}",
            f"{one.span_bubble_rate:.1%}",
        )
    return table


def _facts(one: Forecast, leads: bool) -> dict[str, Any]:
    facts: dict[str, Any] = asdict(one)
    contender = facts.pop("contender")
    options = dict(contender.pop("options"))
    return {**contender, "options": options, **facts, "front": leads}


def _nothing(found: Sequence[Forecast], refused: Sequence[tuple[Contender, LongpipeError]]) -> str:
    if found:
        least = min(found, key=lambda one: one.peak_bytes)
        return (
            f"no schedule fits: {least.contender} needs least, {least.peak_bytes / _GIB:.1f} GiB. "
            "Use more ranks, more segments, or shorter sequences"
        )
    contender, why = refused[0]
    return f"no schedule takes this size; {contender} says: {why}"
