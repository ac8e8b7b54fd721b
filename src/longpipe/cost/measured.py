"""Costs measured op by op on the device at hand, and their file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from longpipe.cost.comm import Link
from longpipe.errors import PlanError
from longpipe.ir import Kind, Memory, Op

_FORMAT = "longpipe-costs"
_VERSION = 1


class Slot(NamedTuple):
    """What is measured: a kind of op on a stage for a segment, the same for all micro-batches.

    `light` is an F that has an R after it, and so keeps less than another.
    """

    kind: Kind
    stage: int
    seg: int
    light: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of an op, bytes that stay after it, and bytes at its peak above those before it."""

    time_s: float
    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """A cost model read from a table; a tick is a second, a cell a byte.

    `message_bytes[seg]` is the size of one message of a segment, `links[source, destination]`
    what carries it. Where B was not measured it is the sum of I and W; a split cannot be had from
    B. An F that was measured light alone takes as long, and holds what it and its R do together. A
    missing entry raises PlanError when it is asked for.
    """

    ops: Mapping[Slot, Measured]
    message_bytes: tuple[int, ...]
    links: Mapping[tuple[int, int], Link]
    tick_s: float = field(default=1.0, init=False)
    cell_bytes: float = field(default=1.0, init=False)

    def _of(self, op: Op) -> Measured:
        slot = Slot(op.kind, op.stage, op.seg)
        found = self.ops.get(slot)
        if found is None and op.kind is Kind.B:
            first, second = (self.ops.get(slot._replace(kind=kind)) for kind in (Kind.I, Kind.W))
            if first is not None and second is not None:
                return _together(first, second, first.time_s + second.time_s)
        if found is None and op.kind is Kind.F:
            light = self.ops.get(slot._replace(light=True))
            again = self.ops.get(slot._replace(kind=Kind.R))
            if light is not None and again is not None:
                return _together(light, again, light.time_s)
        if found is None:
            raise PlanError(
                f"no measured cost for kind {op.kind.value}, stage {op.stage}, segment {op.seg}: "
                "measure with the same stages and cuts"
                + (", with the backward split" if op.kind in (Kind.I, Kind.W) else "")
            )
        return found

    def ticks(self, op: Op) -> float:
        """Seconds that a compute op takes."""
        return self._of(op).time_s

    def pair_ticks(self, first: Op, second: Op) -> None:
        """Our decoder has no fused pairs."""
        return None

    def shard_ticks(self, op: Op) -> float:
        """Seconds that an UNSHARD or a REDUCE_GRAD takes."""
        raise PlanError(f"no measured time of {op}: simulate the order without sharding")

    def delay(self, op: Op, source: int, destination: int) -> float:
        """Seconds until the op's activation, or its gradient, lies on the other rank."""
        if source == destination:
            return 0.0
        link = self.links.get((source, destination))
        if link is None or op.seg >= len(self.message_bytes):
            what = f"link from rank {source} to rank {destination}" if link is None else "size"
            raise PlanError(f"no measured {what} for the message of {op}: measure it as well")
        return link.seconds(self.message_bytes[op.seg])

    def holds(self, op: Op) -> int:
        """Bytes that stay after the op (negative: that it frees)."""
        return self._of(op).held_bytes

    def scratch(self, op: Op) -> int:
        """Bytes above what was held before, at the op's own peak."""
        return self._of(op).peak_bytes

    def light(self, op: Op) -> Memory:
        """Memory of an F whose activations an R makes again."""
        found = self.ops.get(Slot(Kind.F, op.stage, op.seg, light=True))
        if found is None:
            raise PlanError(
                f"no measured memory of a forward with an R, stage {op.stage}, segment {op.seg}: "
                "measure with the same recompute"
            )
        return Memory(found.held_bytes, found.peak_bytes)

    def to_json(self) -> str:
        """The table as text; `from_json` reads it back equal."""
        ops = [
            {
                "kind": slot.kind.value,
                "stage": slot.stage,
                "seg": slot.seg,
                "light": slot.light,
                "time_s": found.time_s,
                "held_bytes": found.held_bytes,
                "peak_bytes": found.peak_bytes,
            }
            for slot, found in sorted(self.ops.items())
        ]
        links = [
            {
                "source": source,
                "destination": destination,
                "latency_s": link.latency_s,
                "bytes_per_s": link.bytes_per_s,
            }
            for (source, destination), link in sorted(self.links.items())
        ]
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "message_bytes": list(self.message_bytes),
            "links": links,
            "ops": ops,
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "MeasuredCosts":
        """Read `to_json`'s text; PlanError says what is wrong with any other."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"costs file is no JSON: {error}") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise PlanError(f'costs file must be a JSON object with "format": "{_FORMAT}"')
        if document.get("version") != _VERSION:
            raise PlanError(
                f"costs file has version {document.get('version')!r}, this longpipe reads "
                f"{_VERSION}: measure again"
            )
        try:
            return cls(*_read(document))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"costs file has a wrong or missing entry: {error!r}") from error


def _together(first: Measured, second: Measured, time_s: float) -> Measured:
    """The bytes of two ops as those of one that runs so long."""
    held = first.held_bytes + second.held_bytes
    return Measured(time_s, held, max(first.peak_bytes, first.held_bytes + second.peak_bytes))


def _slot(entry: dict[str, Any]) -> Slot:
    light = bool(entry.get("light", False))
    return Slot(Kind(entry["kind"]), int(entry["stage"]), int(entry["seg"]), light)


def _read(
    document: dict[str, Any],
) -> tuple[dict[Slot, Measured], tuple[int, ...], dict[tuple[int, int], Link]]:
    ops = {
        _slot(entry): Measured(
            float(entry["time_s"]), int(entry["held_bytes"]), int(entry["peak_bytes"])
        )
        for entry in document["ops"]
    }
    links = {
        (int(entry["source"]), int(entry["destination"])): Link(
            float(entry["latency_s"]), float(entry["bytes_per_s"])
        )
        for entry in document["links"]
    }
    return ops, tuple(int(size) for size in document["message_bytes"]), links
