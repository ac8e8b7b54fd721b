"""The numbers of a Timeline, as people and programs read them."""

from typing import Any

from rich.console import Console
from rich.table import Table

from longpipe.simulate import Idle, Metrics
from longpipe.view import exact, short


def numbers_json(metrics: Metrics, memory: str) -> dict[str, Any]:
    """JSON values; `memory` names the list of peaks."""
    return {
        "ops": metrics.ops,
        "makespan": metrics.makespan_s,
        "global_bubble": metrics.global_bubble_s,
        "global_bubble_rate": metrics.global_bubble_rate,
        "span_bubble": metrics.span_bubble_s,
        "span_bubble_rate": metrics.span_bubble_rate,
        memory: metrics.peak_memory,
        "busy": metrics.busy_s,
        "idle": [_idle_json(idle) for idle in metrics.idle],
    }


def _idle_json(idle: Idle) -> dict[str, float | None]:
    return {
        "warm_up": idle.warm_up_s,
        "imbalance": idle.imbalance_s,
        "communication": idle.communication_s,
        "cool_down": idle.cool_down_s,
    }


def print_numbers(metrics: Metrics, memory: str) -> None:
    """A line for the whole and a table of ranks; `memory` heads the column of peaks."""
    console = Console()
    console.print(
        f"ops {metrics.ops} | makespan {exact(metrics.makespan_s)}"
        f" | global bubble {exact(metrics.global_bubble_s)} ({metrics.global_bubble_rate:.1%})"
        f" | span bubble {exact(metrics.span_bubble_s)} ({metrics.span_bubble_rate:.1%})",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = ("rank", "busy", "idle", "warm-up", "imbalance", "in flight", "cool-down", memory)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    peaks = metrics.peak_memory or (None,) * len(metrics.idle)
    for rank, (busy, idle, peak) in enumerate(
        zip(metrics.busy_s, metrics.idle, peaks, strict=True)
    ):
        parts = (idle.warm_up_s, idle.imbalance_s, idle.communication_s, idle.cool_down_s)
        cells = [None if time is None else f"{time:.5g}" for time in (busy, idle.total_s, *parts)]
        cells.append(None if peak is None else short(peak))
        table.add_row(str(rank), *(cell or "-" for cell in cells))
    console.print(table)
