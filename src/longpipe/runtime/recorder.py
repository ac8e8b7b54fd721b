"""When each compute op ran, at the cost of two clock reads per op."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter_ns
from typing import Any, Protocol

import torch

from longpipe.ir import Event, Op


class Meter(Protocol):
    """Activation memory of this rank (see `memory`)."""

    @property
    def current_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    def reset_peak(self) -> None: ...


class HostRecorder:
    """Start and end of each compute op by the host's monotonic clock, in preallocated lists."""

    __slots__ = ("_ends", "_memory", "_meter", "_ops", "_peaks", "_starts")

    def __init__(self, ops: tuple[Op, ...], meter: Meter | None = None) -> None:
        self._ops = ops
        self._meter = meter
        self._starts = [0] * len(ops)
        self._ends = [0] * len(ops)
        self._memory: list[float | None] = [None] * len(ops)
        self._peaks: list[float | None] = [None] * len(ops)

    def begin(self, number: int) -> None:
        """The `number`-th compute op starts now."""
        if self._meter is not None:
            self._meter.reset_peak()
        self._starts[number] = perf_counter_ns()

    def end(self, number: int) -> None:
        """It has ended."""
        self._ends[number] = perf_counter_ns()
        if self._meter is not None:
            self._peaks[number] = self._meter.peak_bytes

    def settle(self, number: int) -> None:
        """Its input and output have been handed on: what is held now is what it leaves behind."""
        if self._meter is not None:
            self._memory[number] = self._meter.current_bytes

    def events(self) -> tuple[Event, ...]:
        """The step's events, in seconds of this host's `perf_counter`."""
        columns = zip(self._ops, self._starts, self._ends, self._memory, self._peaks, strict=True)
        return tuple(
            Event(op, start * 1e-9, end * 1e-9, memory, peak)
            for op, start, end, memory, peak in columns
        )


class CudaRecorder:
    """Start and end of each compute op on the device's current stream, by CUDA events.

    Only `events` waits for the device. It notes the host's clock when the device is idle and
    counts back from there, so times are on the host's clock.
    """

    __slots__ = ("_device", "_ends", "_host", "_starts")

    def __init__(
        self, ops: tuple[Op, ...], device: torch.device, meter: Meter | None = None
    ) -> None:
        self._device = device
        self._host = HostRecorder(ops, meter)
        self._starts = [_timer() for _ in ops]
        self._ends = [_timer() for _ in ops]

    def begin(self, number: int) -> None:
        """The `number`-th compute op is about to be queued on the stream."""
        self._host.begin(number)
        self._starts[number].record(torch.cuda.current_stream(self._device))

    def end(self, number: int) -> None:
        """All its work has been queued."""
        self._ends[number].record(torch.cuda.current_stream(self._device))
        self._host.end(number)

    def settle(self, number: int) -> None:
        """As `HostRecorder.settle`."""
        self._host.settle(number)

    def events(self) -> tuple[Event, ...]:
        """The step's events, in seconds of this host's `perf_counter`; waits for the device."""
        torch.cuda.synchronize(self._device)
        now = _timer()
        now.record(torch.cuda.current_stream(self._device))
        now.synchronize()
        now_s = perf_counter_ns() * 1e-9
        columns = zip(self._host.events(), self._starts, self._ends, strict=True)
        return tuple(
            event._replace(
                start_s=now_s - start.elapsed_time(now) * 1e-3,
                end_s=now_s - end.elapsed_time(now) * 1e-3,
            )
            for event, start, end in columns
        )


def _timer() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


Recorder = HostRecorder | CudaRecorder


def recorder_for(ops: tuple[Op, ...], device: torch.device, meter: Meter | None = None) -> Recorder:
    """The recorder that suits the device."""
    if device.type == "cuda":
        return CudaRecorder(ops, device, meter)
    return HostRecorder(ops, meter)


def in_range(handler: Callable[[Any], None], op: Op) -> Callable[[Any], None]:
    """`handler` inside a profiler range named after its op (seen by torch.profiler and NVTX)."""
    name = f"longpipe:{op}"

    def ranged(step: Any) -> None:
        range_: AbstractContextManager[object] = torch.profiler.record_function(name)
        with range_:
            handler(step)

    return ranged
