"""One HTML file that needs nothing else: timelines above each other on one time axis."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import count, pairwise, takewhile
from math import floor, log10

from longpipe.ir import COMPUTE, SHARDING, Event, Op, Pairs, Timeline
from longpipe.simulate import Metrics, measure
from longpipe.view.html_style import KINDS, page
from longpipe.view.quantity import short

_LEFT, _RIGHT, _PLOT = 44, 96, 1060  # units of the drawing: label, numbers, time axis
_OP, _SHARD, _MEMORY, _GAP = 26, 6, 22, 8  # heights: op, gathers, memory, between ranks
_LETTER = 6.2  # width of a letter of an op's name


def html_page(timelines: Sequence[Timeline]) -> str:
    """The page: a table of numbers, then each timeline's ranks with what they hold below them.

    Hover over an op for its times and memory. The file grows by about 200 bytes for each op.
    """
    found = [measure(timeline) for timeline in timelines]
    until = max((timeline.makespan_s for timeline in timelines), default=0.0) or 1.0
    title = timelines[0].name if timelines else "no timeline"
    body = [_numbers(timelines, found), _legend(timelines)]
    for timeline, metrics in zip(timelines, found, strict=True):
        body.append(f"<h2>{escape(timeline.source)}</h2>{_drawing(timeline, metrics, until)}")
    return page(escape(title), "\n".join(body))


def _numbers(timelines: Sequence[Timeline], found: Sequence[Metrics]) -> str:
    heads = ("", "makespan", "global bubble", "span bubble", "largest peak memory", "ops")
    rows = []
    for timeline, metrics in zip(timelines, found, strict=True):
        change = metrics.makespan_s / (found[0].makespan_s or 1.0) - 1
        versus = "" if metrics is found[0] else f" ({change:+.1%})"
        peaks = metrics.peak_memory
        cells = (
            timeline.source,
            short(metrics.makespan_s) + versus,
            f"{short(metrics.global_bubble_s)} ({metrics.global_bubble_rate:.1%})",
            f"{short(metrics.span_bubble_s)} ({metrics.span_bubble_rate:.1%})",
            "not known" if peaks is None else short(max(peaks)),
            str(metrics.ops),
        )
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{text}</th>" for text in heads)
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _legend(timelines: Sequence[Timeline]) -> str:
    rows = [row for timeline in timelines for row in timeline.rows]
    drawn = {event.op.kind.value for row in rows for event in row}
    items = {kind: f"{kind} {text}" for kind, text in KINDS.items() if kind in drawn}
    items |= {"wait": "message in flight", "memory": "memory held"}
    if any(timeline.pairs for timeline in timelines):
        items["pair"] = "two ops run as one"
    spans = "".join(f'<span><i class="{name}"></i>{text}</span>' for name, text in items.items())
    return f'<p class="legend">{spans}</p>'


def _drawing(timeline: Timeline, metrics: Metrics, until: float) -> str:
    """All ranks of one timeline as an SVG, from 0 to `until`."""
    highest = max(metrics.peak_memory or (0.0,))
    sharded = any(event.op.kind in SHARDING for row in timeline.rows for event in row)
    below = _OP + (_SHARD if sharded else 0)
    height_of_rank = below + (_MEMORY if highest else 0) + _GAP
    height = timeline.ranks * height_of_rank + 20
    parts = list(_axis(until, height))
    for rank, row in enumerate(timeline.rows):
        top = rank * height_of_rank
        parts.append(f'<text class="label" x="0" y="{top + 17}">rank {rank}</text>')
        waits = timeline.waits_s[rank] if timeline.waits_s else (0.0,) * len(row)
        parts += (
            _op(event, wait, top, until)
            for event, wait in zip(row, waits, strict=True)
            if event.op.kind in COMPUTE
        )
        parts += _pairs(row, timeline.pairs, top, until)
        parts += (_shard(event, top + _OP, until) for event in row if event.op.kind in SHARDING)
        idle = metrics.idle[rank].total_s / (metrics.makespan_s or 1.0)
        parts.append(_note(top + 17, f"idle {idle:.1%}"))
        if highest and metrics.peak_memory:
            parts.append(_memory(_computes(row), top + below, until, highest))
            peak = short(metrics.peak_memory[rank])
            parts.append(_note(top + below + 16, f"peak {peak}"))
    box = f"0 0 {_LEFT + _PLOT + _RIGHT} {height}"
    most = max(map(len, timeline.rows), default=0)
    border = min(0.8, 60 / (most or 1))  # many thin ops would be all border
    return f'<div><svg viewBox="{box}" stroke-width="{border:.2f}">{"".join(parts)}</svg></div>'


def _axis(until: float, height: float) -> Iterator[str]:
    """Lines at round times."""
    step = _round_step(until / 10)
    for time in takewhile(lambda time: time <= until, (step * number for number in count())):
        x = _x(time, until)
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{height - 14}"/>'
        yield f'<text class="time" x="{x}" y="{height - 3}">{short(time)}</text>'


def _op(event: Event, wait_s: float, top: float, until: float) -> str:
    op = event.op
    x, stop = _x(event.start_s, until), _x(event.end_s, until)
    lines = [
        f"{op}: stage {op.stage}, micro-batch {op.mb}, segment {op.seg}",
        f"{short(event.start_s)} to {short(event.end_s)} ({short(event.end_s - event.start_s)})",
    ]
    if event.memory is not None:
        lines.append(f"holds {short(event.memory)} after it")
    if event.peak is not None:
        lines.append(f"peak {short(event.peak)}")
    shade = " odd" if op.mb % 2 else ""
    drawn = (
        f'<rect class="{op.kind.value}{shade}" x="{x}" y="{top}" width="{stop - x:.2f}"'
        f' height="{_OP}"><title>{escape(chr(10).join(lines))}</title></rect>'
    )
    if wait_s > 0:
        begin = _x(event.start_s - wait_s, until)
        drawn += (
            f'<rect class="wait" x="{begin}" y="{top}" width="{x - begin:.2f}" height="{_OP}">'
            f"<title>{op} waits {short(wait_s)} for a message in flight</title></rect>"
        )
    label = next((name for name in _names(op) if len(name) * _LETTER + 4 < stop - x), None)
    if label:
        drawn += f'<text class="op" x="{(x + stop) / 2:.2f}" y="{top + 17}">{label}</text>'
    return drawn


def _pairs(row: Sequence[Event], pairs: Pairs, top: float, until: float) -> Iterator[str]:
    """A frame around each two ops that ran fused."""
    for first, second in pairwise(_computes(row)):
        if (first.op, second.op) in pairs:
            x, stop = _x(first.start_s, until), _x(second.end_s, until)
            yield (
                f'<rect class="pair" x="{x}" y="{top}" width="{stop - x:.2f}" height="{_OP}">'
                f"<title>{first.op} and {second.op} run as one op</title></rect>"
            )


def _computes(row: Sequence[Event]) -> list[Event]:
    return [event for event in row if event.op.kind in COMPUTE]


def _shard(event: Event, top: float, until: float) -> str:
    """A gather or reduction, which runs beside the ops, as a thin bar below them."""
    x, stop = _x(event.start_s, until), _x(event.end_s, until)
    return (
        f'<rect class="{event.op.kind.value}" x="{x}" y="{top + 1}" width="{stop - x:.2f}"'
        f' height="{_SHARD - 1}"><title>{event.op}\n{short(event.start_s)} to '
        f"{short(event.end_s)}</title></rect>"
    )


def _names(op: Op) -> tuple[str, str]:
    """Its text form, and a shorter one: the colour tells the kind, the row mostly the stage."""
    return str(op), f"{op.mb}.{op.seg}" if op.seg else str(op.mb)


def _memory(row: Sequence[Event], top: float, until: float, highest: float) -> str:
    """What a rank holds, as steps: its peak during each op, then what stays."""
    bottom = top + _MEMORY
    points = [f"{_x(0, until)},{bottom}"]

    def add(time: float, memory: float) -> None:
        points.append(f"{_x(time, until)},{bottom - memory / highest * (_MEMORY - 3):.2f}")

    held = 0.0
    for event in row:
        during = held if event.peak is None else event.peak
        for time, memory in ((event.start_s, held), (event.start_s, during)):
            add(time, memory)
        held = held if event.memory is None else event.memory
        for time, memory in ((event.end_s, during), (event.end_s, held)):
            add(time, memory)
    end = _x(row[-1].end_s if row else 0, until)
    return f'<polygon class="memory" points="{" ".join(points)} {end},{bottom}"/>'


def _note(y: float, text: str) -> str:
    return f'<text class="note" x="{_LEFT + _PLOT + 8}" y="{y}">{text}</text>'


def _x(time: float, until: float) -> float:
    return round(_LEFT + time / until * _PLOT, 2)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)
