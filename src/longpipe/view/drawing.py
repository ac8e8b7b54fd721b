"""A picture of timelines as a list of shapes: what SVG and PNG have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from math import floor, log10
from typing import Literal, NamedTuple

from longpipe.ir import Event, Op
from longpipe.simulate import Metrics, measure
from longpipe.view.palette import CAUSES, KINDS, LIGHT
from longpipe.view.panel import Align, Lane, Panel, default_align, lanes
from longpipe.view.quantity import percent, size, time

_LEFT, _PLOT, _RIGHT = 92.0, 1000.0, 108.0  # names of ranks, time, numbers
_OP, _BESIDE, _MEMORY, _GAP = 24.0, 6.0, 20.0, 8.0
_HEAD, _FOOT = 24.0, 46.0  # above each timeline; axis and legend
_LETTER = 6.2  # width of a letter, about
FONT = 11


class Box(NamedTuple):
    """A rectangle; with `hollow` only its border."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    hollow: bool = False


class Words(NamedTuple):
    """Text, its middle at height `y`; `anchor` is what of it stands at `x`."""

    x: float
    y: float
    text: str
    colour: str
    anchor: Literal["start", "middle"] = "start"
    bold: bool = False


class Area(NamedTuple):
    """A filled polygon."""

    points: tuple[tuple[float, float], ...]
    colour: str


Shape = Box | Words | Area


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes from back to front on a white ground, in CSS pixels from the top left."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def draw(panels: Sequence[Panel], align: Align | None = None) -> Drawing:
    """Timelines one above another on one time axis, as the page shows them when it opens.

    But each timeline as a whole, not rank by rank: for print, where nobody points at an op.
    """
    aligned = (align or default_align(panels)) is Align.MAKESPAN
    until = max((panel.timeline.makespan_s for panel in panels), default=0.0) or 1.0
    shapes: list[Shape] = []
    y = 0.0
    for panel in panels:
        own = panel.timeline.makespan_s if aligned else until
        found = measure(panel.timeline)
        shapes += _caption(panel, found, y)
        y += _HEAD
        drawn = list(lanes(panel.timeline))
        most = max(found.peak_memory or (0.0,))
        for rank, lane in enumerate(drawn):
            row = _Row(panel, found, rank, lane, own or 1.0, most)
            shapes += row.shapes(y)
            y += row.height + _GAP
    step = _round_step(until / 10)
    times = takewhile(lambda at: at <= until * 1.0001, (step * number for number in count()))
    unit = panels[0].seconds if panels else False
    for at in times:
        x = _LEFT + at / until * _PLOT
        text = percent(at, until) if aligned else time(at, unit)
        shapes.insert(0, Box(x, _HEAD, 0.6, y - _HEAD, LIGHT["line"]))
        shapes.append(Words(x, y + 8, text, LIGHT["faint"], "middle"))
    shapes += _legend(panels, y + 32)
    return Drawing(_LEFT + _PLOT + _RIGHT, y + _FOOT, tuple(shapes))


def _caption(panel: Panel, found: Metrics, y: float) -> Iterator[Shape]:
    words = f"{panel.timeline.source} {panel.timeline.name}"
    yield Words(8, y + 12, words, LIGHT["text"], bold=True)
    numbers = (
        f"makespan {time(found.makespan_s, panel.seconds)}, "
        f"global bubble {found.global_bubble_rate:.1%}"
    )
    rest = " · ".join(filter(None, (numbers, panel.note)))
    yield Words(8 + (len(words) + 3) * _LETTER, y + 12, rest, LIGHT["faint"])


def _legend(panels: Sequence[Panel], y: float) -> Iterator[Shape]:
    rows = [row for panel in panels for row in panel.timeline.rows]
    drawn = {event.op.kind.value for row in rows for event in row}
    items = {kind: f"{kind} {text}" for kind, text in KINDS.items() if kind in drawn}
    items |= {cause: f"idle: {cause.replace('in-', 'in ')}" for cause in CAUSES}
    items["memory"] = "memory held"
    x = 8.0
    for name, text in items.items():
        yield Box(x, y - 5, 12, 10, LIGHT[name])
        yield Words(x + 17, y, text, LIGHT["faint"])
        x += 17 + len(text) * _LETTER * 0.95 + 10


@dataclass(frozen=True, slots=True)
class _Row:
    """One rank, from 0 to `until` over the whole width."""

    panel: Panel
    found: Metrics
    rank: int
    lane: Lane
    until: float
    most: float  # memory of the panel

    @property
    def height(self) -> float:
        return _OP + _BESIDE * bool(self.lane.beside) + _MEMORY * bool(self.most)

    def x(self, at: float) -> float:
        return _LEFT + at / self.until * _PLOT

    def shapes(self, y: float) -> Iterator[Shape]:
        yield Words(8, y + _OP / 2, f"rank {self.rank}", LIGHT["text"])
        yield from self._gaps(y)
        for event in self.lane.ops:
            yield from self._op(event, y)
        yield from self._frames(y)
        for event in self.lane.beside:
            x, end = self.x(event.start_s), self.x(event.end_s)
            yield Box(x, y + _OP + 1, end - x, _BESIDE - 2, LIGHT[event.op.kind.value])
        right = _LEFT + _PLOT + 8
        idle, makespan = self.found.idle[self.rank].total_s, self.found.makespan_s
        yield Words(right, y + _OP / 2, f"idle {percent(idle, makespan)}", LIGHT["faint"])
        if self.most and self.found.peak_memory:
            bottom = y + self.height
            yield Area(tuple(self._memory(bottom)), LIGHT["memory"])
            peak = size(self.found.peak_memory[self.rank], self.panel.seconds)
            yield Words(right, bottom - _MEMORY / 2, f"peak {peak}", LIGHT["faint"])

    def _op(self, event: Event, y: float) -> Iterator[Shape]:
        op, x, end = event.op, self.x(event.start_s), self.x(event.end_s)
        colour = LIGHT[op.kind.value]
        shade = _lighter(colour) if op.mb % 2 else colour
        border = 0.8 if end - x > 4 else 0.0
        yield Box(x, y, end - x - border, _OP, shade)
        name = next((text for text in _names(op) if len(text) * _LETTER + 3 <= end - x), None)
        if name:
            yield Words((x + end) / 2, y + _OP / 2, name, LIGHT["on-op"], "middle")

    def _frames(self, y: float) -> Iterator[Shape]:
        for first, second in pairwise(self.lane.ops):
            if (first.op, second.op) in self.panel.timeline.pairs:
                x, end = self.x(first.start_s), self.x(second.end_s)
                yield Box(x, y, end - x - 1, _OP, LIGHT["text"], hollow=True)

    def _gaps(self, y: float) -> Iterator[Shape]:
        """Idle time by cause, as a band through the middle."""
        ops, idle, makespan = self.lane.ops, self.found.idle[self.rank], self.found.makespan_s
        if not ops:
            return
        parts = [("warm-up", 0.0, ops[0].start_s)]
        waits = self.lane.waits or (0.0,) * len(ops)
        for before, after, wait in zip(ops[:-1], ops[1:], waits[1:], strict=True):
            flying = after.start_s - min(wait, max(after.start_s - before.end_s, 0.0))
            parts += [("imbalance", before.end_s, flying), ("in-flight", flying, after.start_s)]
        last = makespan - idle.cool_down_s
        parts += [("in-flight", ops[-1].end_s, last), ("cool-down", last, makespan)]
        for cause, start, end in parts:
            if end - start > 1e-6 * makespan:
                x = self.x(start)
                yield Box(x, y + _OP / 2 - 2, self.x(end) - x, 4, LIGHT[cause])

    def _memory(self, bottom: float) -> Iterator[tuple[float, float]]:
        """What the rank holds, as steps: its peak during each op, then what stays."""
        scale = (_MEMORY - 3) / self.most
        held = 0.0
        yield self.x(0), bottom
        for event in self.lane.ops:
            during = held if event.peak is None else event.peak
            x, end = self.x(event.start_s), self.x(event.end_s)
            yield x, bottom - held * scale
            yield x, bottom - during * scale
            yield end, bottom - during * scale
            held = held if event.memory is None else event.memory
            yield end, bottom - held * scale
        yield self.x(self.lane.ops[-1].end_s if self.lane.ops else 0.0), bottom


def _names(op: Op) -> tuple[str, ...]:
    """From long to short; each has the kind's letter."""
    tail = f".{op.seg}" if op.seg else ""
    return str(op), f"{op.kind.value}{op.mb}{tail}", op.kind.value


def _lighter(colour: str) -> str:
    """Towards white: odd micro-batches."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * 0.65 + 255 * 0.35):02x}" for part in parts)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)
