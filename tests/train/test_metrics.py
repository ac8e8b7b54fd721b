"""Metrics: the numbers, the files they go to, and that a resume writes no step twice."""

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from longpipe.errors import ConfigError
from longpipe.train import metrics as metrics_module
from longpipe.train.metrics import (
    JsonlSink,
    MetricsLog,
    PlainSink,
    ProgressSink,
    StepMetrics,
    TensorBoardSink,
    console_sink,
    peak_memory_bytes,
)


def at(step: int, loss: float = 2.5, **more: float) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=loss,
        grad_norm=1.25,
        lr=3e-4,
        tokens=8192,
        step_s=2.0,
        flops=4e12,
        peak_memory_bytes=3 << 29,
        **more,
    )


class Happened:
    """Something after step 3 that is worth a line for people, or not."""

    step = 3

    def __init__(self, line: str | None) -> None:
        self._line = line

    def record(self) -> dict[str, Any]:
        return {"event": "test", "step": self.step}

    def line(self) -> str | None:
        return self._line


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rates_follow_from_the_step() -> None:
    assert at(1).tokens_per_s == 4096
    assert at(1).tflops_per_s == 2


def test_the_line_says_what_is_known() -> None:
    assert at(1).line() == "loss 2.5000  norm 1.25  4,096 tok/s  2 TFLOP/s  1.50 GiB"
    full = at(1, mfu=0.4, global_bubble_measured=0.12, global_bubble_predicted=0.1).line()
    assert full.endswith("4,096 tok/s  MFU 40.0%  1.50 GiB  bubble 12.0% (10.0%)")
    assert at(1, group=4).line().endswith("1.50 GiB  group 4")


def test_json_lines_round_trip_every_bit_and_hold_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    losses = [0.1 + 0.2, math.pi, math.nan, math.inf]
    with MetricsLog([JsonlSink(path)]) as log:
        for step, loss in enumerate(losses, start=1):
            log.write(at(step, loss))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["loss"] for record in records] == [*losses[:2], None, None]
    assert records[0]["tokens_per_s"] == 4096
    assert records[0]["mfu"] is None


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', '{"step": 4}', "garbage\n"])
def test_a_resume_writes_no_step_twice(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    for step in range(1, 6):
        sink.write(at(step))
    with path.open("a") as file:
        file.write(torn)
    resumed = JsonlSink(path, resumed_step=3)
    resumed.write(at(4, loss=9.0))
    resumed.close()
    assert steps_in(path) == [1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[3])["loss"] == 9.0
    JsonlSink(path, resumed_step=10).close()
    assert steps_in(path) == [1, 2, 3, 4]
    JsonlSink(path).close()
    assert path.read_text() == ""


def test_what_happens_between_steps_is_a_line_of_its_own(tmp_path: Path) -> None:
    """A resume after that step keeps it, one from before does not."""
    path = tmp_path / "metrics.jsonl"
    stream = io.StringIO()
    with MetricsLog([JsonlSink(path), PlainSink(stream, steps=9)]) as log:
        log.write(at(3))
        log.note(Happened("step 3: it happened"))
        log.note(Happened(None))
    assert [json.loads(line).get("event") for line in path.read_text().splitlines()] == [
        None, "test", "test"
    ]  # fmt: skip
    assert stream.getvalue().splitlines()[1:] == ["step 3: it happened"]
    JsonlSink(path, resumed_step=3).close()
    assert steps_in(path) == [3, 3, 3]
    JsonlSink(path, resumed_step=2).close()
    assert steps_in(path) == []


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write(at(1))
    assert steps_in(path) == [1]


def test_plain_lines_for_logs_and_a_bar_for_terminals() -> None:
    stream = io.StringIO()
    sink = console_sink(stream, steps=10)
    assert isinstance(sink, PlainSink)
    sink.write(at(3))
    sink.close()
    assert stream.getvalue() == f"step 3/10  {at(3).line()}\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    bar = console_sink(terminal, steps=10, resumed_step=2)
    assert isinstance(bar, ProgressSink)
    bar.write(at(3))
    bar.note(Happened("step 3: it happened"))
    bar.close()
    assert f"step 3  {at(3).line()}\n" in terminal.getvalue()
    assert "step 3: it happened\n" in terminal.getvalue()
    assert "3/10" in terminal.getvalue()


def test_a_reader_that_has_gone_does_not_end_the_run() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        sink = PlainSink(stream, steps=10)
        sink.write(at(3))
        sink.write(at(4))


def test_tensorboard_supersedes_steps_after_a_resume(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = TensorBoardSink(tmp_path)
    for step in (1, 2, 3):
        first.write(at(step, loss=step))
    first.close()
    second = TensorBoardSink(tmp_path, resumed_step=1)
    second.write(at(2, loss=20.0))
    second.note(Happened("step 3: it happened"))
    second.note(Happened(None))
    second.close()
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert [(s.step, s.value) for s in scalars] == [(1, 1.0), (2, 20.0)]
    assert [tensor.step for tensor in events.Tensors("train/event/text_summary")] == [3]


def test_a_missing_tensorboard_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(metrics_module, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'longpipe\[tensorboard\]'"):
        TensorBoardSink(tmp_path)


def test_peak_memory_is_in_bytes() -> None:
    held = torch.ones(1 << 22)
    assert peak_memory_bytes(torch.device("cpu")) > held.numel() * 4
