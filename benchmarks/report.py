"""The pipeline benchmark's tables."""

import platform
import statistics
from datetime import date
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RANKS = 2


def show(results: list[dict[str, Any]], tokens: int) -> None:
    """Print the table of one number of micro-batches: speed, memory, forecast."""
    console = Console()
    console = Console(width=max(console.width, 150))
    console.print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{RANKS} processes of one thread, sequences of {tokens} tokens, medians of "
        f"{len(results[0]['seconds'])} interleaved rounds",
        highlight=False,
    )
    console.print(_table(results, results[0]["microbatches"], tokens))


def label(one: dict[str, Any]) -> str:
    """Name of a mode."""
    spec = one["spec"]
    tail = f" k={spec['segments']}" if spec["segments"] > 1 else ""
    return f"{spec['side']} {spec['schedule']}{tail}"


def _table(rows: list[dict[str, Any]], microbatches: int, tokens: int) -> Table:
    speeds = {label(one): _speed(one, microbatches, tokens) for one in rows}
    torch_speeds = {name: s for name, s in speeds.items() if name.startswith("torch")}
    table = Table(title=f"{microbatches} micro-batch(es)")
    columns = (
        "mode", "tokens/s", "/ideal", "/torch best", "/torch 1F1B", "peak MiB", "/torch 1F1B",
        "grad. error", "forecast: step", "peak",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    plain = next((one for one in rows if label(one) == "torch 1F1B"), None)
    for one in rows:
        speed = speeds[label(one)]
        table.add_row(
            label(one),
            f"{speed:.0f}",
            f"{speed / speeds['ideal two replicas']:.3f}",
            f"{speed / max(torch_speeds.values()):.3f}" if torch_speeds else "",
            f"{speed / torch_speeds['torch 1F1B']:.3f}" if "torch 1F1B" in torch_speeds else "",
            " ".join(f"{peak / 2**20:.0f}" for peak in one["peak_bytes"]),
            f"{max(one['peak_bytes']) / max(plain['peak_bytes']):.3f}" if plain else "",
            f"{one['gradient_error']:.1e}",
            _signed(one["predicted_s"], statistics.median(one["pipeline_s"])),
            _signed(max(one["predicted_bytes"], default=None), max(one["peak_bytes"])),
        )
    return table


def _speed(one: dict[str, Any], microbatches: int, tokens: int) -> float:
    replicas = RANKS if one["spec"]["side"] == "ideal" else 1
    return replicas * microbatches * tokens / statistics.median(one["seconds"])


def _signed(predicted: float | None, measured: float) -> str:
    return "" if predicted is None else f"{predicted / measured - 1:+.1%}"
