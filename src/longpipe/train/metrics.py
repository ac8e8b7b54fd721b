"""What each step did: a record, and the places that show or keep it."""

import json
import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longpipe.errors import ConfigError, RunError
from longpipe.train.console import write_line


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step of the whole run, over all ranks."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over the valid tokens of the global batch, in nats."""
    grad_norm: float
    """Before clipping."""
    lr: float
    tokens: int
    """Positions processed in the step."""
    step_s: float
    flops: float
    """Model FLOPs of the step, forward and backward, without recomputation."""
    peak_memory_bytes: int
    """Of the worst rank."""
    global_bubble_predicted: float | None = None
    """(makespan - busy time) / makespan of the rank that is worst, simulated; None: no forecast."""
    global_bubble_measured: float | None = None
    """The same share, measured; None: not traced."""
    mfu: float | None = None
    """FLOPs over what the devices could do in step_s; None: their peak is not known."""
    group: int | None = None
    """Forwards in a row of the order that the step ran in; None: nothing changes it."""

    @property
    def tokens_per_s(self) -> float:
        """Throughput of the whole run."""
        return self.tokens / self.step_s

    @property
    def tflops_per_s(self) -> float:
        """Of all ranks together."""
        return self.flops / self.step_s / 1e12

    def record(self) -> dict[str, float | int | None]:
        """All numbers by name, for JSON; what is not finite or not known is None."""
        values = asdict(self) | {
            "tokens_per_s": self.tokens_per_s,
            "tflops_per_s": self.tflops_per_s,
        }
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in values.items()
        }

    def line(self) -> str:
        """The numbers for people, on one line of a terminal.

        TFLOP/s or MFU, if it is known; the global bubble as measured, predicted in brackets.
        """
        parts = [
            f"loss {self.loss:.4f}",
            f"norm {self.grad_norm:.3g}",
            f"{self.tokens_per_s:,.0f} tok/s",
            f"{self.tflops_per_s:.3g} TFLOP/s" if self.mfu is None else f"MFU {self.mfu:.1%}",
            f"{self.peak_memory_bytes / 2**30:.2f} GiB",
        ]
        if self.global_bubble_measured is not None:
            bubble = f"bubble {self.global_bubble_measured:.1%}"
            if self.global_bubble_predicted is not None:
                bubble += f" ({self.global_bubble_predicted:.1%})"
            parts.append(bubble)
        if self.group is not None:
            parts.append(f"group {self.group}")
        return "  ".join(parts)


class Happening(Protocol):
    """What happens to a run after a step."""

    @property
    def step(self) -> int: ...

    def record(self) -> dict[str, Any]:
        """All about it by name, for JSON; with `step`, and `event` for its kind."""
        ...

    def line(self) -> str | None:
        """For people; None: not worth a line."""
        ...


class MetricsSink(Protocol):
    """A place that metrics go to."""

    def write(self, metrics: StepMetrics) -> None:
        """Take one step's metrics."""

    def note(self, what: Happening) -> None:
        """Take what happened after the last step."""

    def close(self) -> None:
        """Finish; nothing is lost if this is never called."""


class JsonlSink:
    """A JSON object per line: one per step, each step once, and one with `event` per happening.

    Args:
        path: the file; made if absent.
        resumed_step: the run goes on after this step. Later lines and a line that a kill cut short
            are removed; 0 (a new run) empties the file.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with path.open("a+b") as file:
            file.truncate(_kept_bytes(file, resumed_step))
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: StepMetrics) -> None:
        """Append the line and hand it to the operating system."""
        self._append(metrics.step, metrics.record())

    def note(self, what: Happening) -> None:
        """The same."""
        self._append(what.step, what.record())

    def _append(self, step: int, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._path}: step {step} cannot be logged: {error.strerror or error}. "
                "Free some space and resume: lines after the checkpoint are written again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardSink:
    """TensorBoard event files; steps after `resumed_step` are superseded.

    Raises:
        ConfigError: the package `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        try:
            # An extra: most runs do without, and importing it takes a second.
            tensorboard: Any = import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError(
                "train.tensorboard = true needs the package tensorboard: "
                "pip install 'longpipe[tensorboard]', or set train.tensorboard = false"
            ) from error
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def write(self, metrics: StepMetrics) -> None:
        """A scalar per number."""
        for name, value in metrics.record().items():
            if name != "step" and value is not None:
                self._writer.add_scalar(f"train/{name}", value, metrics.step)

    def note(self, what: Happening) -> None:
        """Its line, as a text."""
        if (line := what.line()) is not None:
            self._writer.add_text("train/event", line, what.step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


class PlainSink:
    """A line of text per step, for logs."""

    def __init__(self, stream: TextIO, steps: int) -> None:
        self._stream = stream
        self._steps = steps

    def write(self, metrics: StepMetrics) -> None:
        """Write the line at once."""
        write_line(self._stream, f"step {metrics.step}/{self._steps}  {metrics.line()}")

    def note(self, what: Happening) -> None:
        """Its line, if it has one."""
        if (line := what.line()) is not None:
            write_line(self._stream, line)

    def close(self) -> None:
        """Nothing to finish: the stream is the caller's."""


class ProgressSink:
    """Lines that scroll, and a progress bar below them, for a terminal."""

    def __init__(self, stream: TextIO, steps: int, resumed_step: int = 0) -> None:
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._task = self._progress.add_task("", total=steps, completed=resumed_step)
        self._progress.start()

    def write(self, metrics: StepMetrics) -> None:
        """Print the line and move the bar."""
        self._print(f"step {metrics.step}  {metrics.line()}")
        self._progress.update(self._task, completed=metrics.step)

    def note(self, what: Happening) -> None:
        """Print its line, if it has one."""
        if (line := what.line()) is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        self._progress.stop()


def console_sink(stream: TextIO, steps: int, resumed_step: int = 0) -> MetricsSink:
    """A progress bar if the stream is a terminal, lines otherwise."""
    if stream.isatty():
        return ProgressSink(stream, steps, resumed_step)
    return PlainSink(stream, steps)


class MetricsLog:
    """Several sinks as one; as a context manager it closes them."""

    def __init__(self, sinks: Sequence[MetricsSink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, metrics: StepMetrics) -> None:
        """To each sink, in order."""
        for sink in self._sinks:
            sink.write(metrics)

    def note(self, what: Happening) -> None:
        """To each sink, in order."""
        for sink in self._sinks:
            sink.note(what)

    def close(self) -> None:
        """Each sink, in order."""
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use at once since the start: of the CUDA allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kept_bytes(file: Any, resumed_step: int) -> int:
    """Length of the leading lines that are whole and of steps up to `resumed_step`."""
    file.seek(0)
    kept = 0
    for line in file:
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n") or step > resumed_step:
            break
        kept += len(line)
    return kept
