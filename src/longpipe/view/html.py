"""One HTML file that needs nothing else: the viewer, with the timelines in it."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from longpipe.ir import Timeline
from longpipe.simulate import Metrics, measure
from longpipe.view.pack import pack
from longpipe.view.palette import CAUSES, KINDS, css
from longpipe.view.panel import Align, Panel, causes, default_align, title
from longpipe.view.quantity import percent, size, time

_SCRIPTS = (
    "data", "format", "layout", "search", "rows", "memory", "draw", "tooltip", "viewer", "input"
)  # fmt: skip
_OPEN = 16  # with more ranks their tables start folded


def html_page(panels: Sequence[Panel], align: Align | None = None) -> str:
    """The page: ranks over time, and a table of numbers that says the same without a picture.

    Everything is inside: the page asks nobody for anything. It grows by about 10 bytes for each
    op. `align` is how it opens; None: one time scale if the units allow it.
    """
    found = [measure(panel.timeline) for panel in panels]
    heads, ops = pack(panels, found)
    content = {
        "panels": heads,
        "kinds": KINDS,
        "causes": CAUSES,
        "align": align or default_align(panels),
    }
    return Template(_file("viewer.html")).substitute(
        title=escape(title(panels)),
        colours=css(),
        style=_file("viewer.css"),
        legend=_legend(panels),
        numbers=_numbers(panels, found),
        content=json.dumps(content, allow_nan=False).replace("<", "\\u003c"),
        ops=ops,
        script="\n".join(_file(f"{name}.js") for name in _SCRIPTS),
    )


def _file(name: str) -> str:
    return files("longpipe.view").joinpath("page", name).read_text(encoding="utf-8")


def _legend(panels: Sequence[Panel]) -> str:
    rows = [row for panel in panels for row in panel.timeline.rows]
    drawn = {event.op.kind.value for row in rows for event in row}
    items = {kind: f"<b>{kind}</b> {text}" for kind, text in KINDS.items() if kind in drawn}
    items |= {name: f"idle: {_spaced(name)}" for name in CAUSES}
    items["memory"] = "memory held"
    if any(panel.timeline.pairs for panel in panels):
        items["fused"] = "two ops run as one"
    return "".join(
        f'<span><i class="key" style="background: var(--{name})"></i>{text}</span>'
        if name != "fused"
        else f'<span><i class="key frame"></i>{text}</span>'
        for name, text in items.items()
    )


def _numbers(panels: Sequence[Panel], found: Sequence[Metrics]) -> str:
    """A table of all timelines, then one of each with a line for each rank."""
    first = found[0].makespan_s if found else 0.0
    heads = (
        "timeline", "makespan", "global bubble", "span bubble",
        *(_spaced(name) for name in CAUSES), "largest peak", "ops",
    )  # fmt: skip
    lines = [
        _line(_summary(panel, metrics, first)) for panel, metrics in zip(panels, found, strict=True)
    ]
    parts = [
        _table("All timelines; idle time by cause as a share of all ranks' time", heads, lines)
    ]
    parts += (_by_rank(panel, metrics) for panel, metrics in zip(panels, found, strict=True))
    return "\n".join(parts)


def _summary(panel: Panel, metrics: Metrics, first: float) -> Iterator[str]:
    timeline, seconds = panel.timeline, panel.seconds
    change = metrics.makespan_s / first - 1 if first else 0.0
    yield _name(panel)
    yield time(metrics.makespan_s, seconds) + (f" ({change:+.1%})" if change else "")
    yield f"{time(metrics.global_bubble_s, seconds)} ({metrics.global_bubble_rate:.1%})"
    yield f"{time(metrics.span_bubble_s, seconds)} ({metrics.span_bubble_rate:.1%})"
    whole = timeline.makespan_s * timeline.ranks
    idle = causes(metrics)
    yield from (percent(sum(rank[cause] for rank in idle), whole) for cause in range(len(CAUSES)))
    yield "-" if metrics.peak_memory is None else size(max(metrics.peak_memory), seconds)
    yield f"{metrics.ops:,}"


def _by_rank(panel: Panel, metrics: Metrics) -> str:
    heads = ("rank", "busy", "idle", "", *(_spaced(name) for name in CAUSES), "peak")
    seconds, whole = panel.seconds, metrics.makespan_s
    peaks = metrics.peak_memory or (None,) * len(metrics.idle)
    idle = causes(metrics)
    lines = []
    for rank, (busy, parts, peak) in enumerate(zip(metrics.busy_s, idle, peaks, strict=True)):
        lines.append(
            _line(
                [
                    f"r{rank}",
                    time(busy, seconds),
                    f"{time(sum(parts), seconds)} ({percent(sum(parts), whole)})",
                    _bar(parts, whole),
                    *(time(part, seconds) for part in parts),
                    "-" if peak is None else size(peak, seconds),
                ]
            )
        )
    total = tuple(map(sum, zip(*idle, strict=True)))
    all_ranks = whole * len(idle)
    lines.append(
        _line(
            [
                "all",
                time(sum(metrics.busy_s), seconds),
                f"{time(sum(total), seconds)} ({percent(sum(total), all_ranks)})",
                _bar(total, all_ranks),
                *(time(part, seconds) for part in total),
                "-" if metrics.peak_memory is None else size(max(metrics.peak_memory), seconds),
            ]
        )
    )
    unfolded = " open" if len(idle) <= _OPEN else ""
    table = _table(f"Bubble by cause, {_plain(panel.timeline)}", heads, lines)
    return f"<details{unfolded}><summary>{_name(panel)}</summary>{table}</details>"


def _spaced(name: str) -> str:
    return name.replace("in-", "in ")  # warm-up and cool-down keep their dash


def _plain(timeline: Timeline) -> str:
    return f"{timeline.source} {timeline.name}"


def _name(panel: Panel) -> str:
    note = f" <small>{escape(panel.note)}</small>" if panel.note else ""
    return f"<b>{escape(panel.timeline.source)}</b> {escape(panel.timeline.name)}{note}"


def _bar(parts: Sequence[float], whole: float) -> str:
    """Idle by cause as a strip; the columns after it say the same in numbers."""
    pieces = "".join(
        f'<i style="width: {part / whole:.2%}; background: var(--{cause})"></i>'
        for cause, part in zip(CAUSES, parts, strict=True)
        if whole and part > 0
    )
    return f'<span class="bar" aria-hidden="true">{pieces}</span>'


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    first, *others = cells
    body = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{body}</tr>'


def _table(caption: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
