"""The page and the pictures of `benchmarks.frontier`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

from longpipe.plan.comparison import Forecast, Setting, front

GIB = 2**30
LIMIT_BYTES = 8 * 80 * GIB  # a machine of eight devices of 80 GiB
_ORDER = 2  # the length by which the table of all is ordered


@dataclass(frozen=True, slots=True)
class Column:
    """One setting and the forecasts of all schedules there."""

    setting: Setting
    forecasts: tuple[Forecast, ...]

    @property
    def length(self) -> str:
        """Tokens of a sequence, as people say it."""
        thousands = self.setting.tokens // 1024
        return "1M" if thousands == 1024 else f"{thousands}k"

    def fitting(self) -> list[Forecast]:
        """Those within the memory of a machine, fastest first."""
        fits = [one for one in self.forecasts if one.peak_bytes <= LIMIT_BYTES]
        return sorted(fits, key=lambda one: one.step_s)

    def front(self) -> tuple[Forecast, ...]:
        """The Pareto front of those that fit."""
        return front(self.forecasts, LIMIT_BYTES)


def page(columns: Sequence[Column], words: str) -> str:
    """The whole page; `words` is what people have written about it."""
    lengths = _lengths(columns)
    parts = [
        "# Every schedule in time and memory",
        "<!-- Made by benchmarks/frontier.py: run `make frontier`, do not edit; the words are in "
        "docs/frontier_words.md. -->",
        words.strip(),
        "## The best of each",
        _best_table(columns),
        "## All schedules",
        _legend(lengths),
        _table(lengths, _names(lengths)),
        *_elsewhere(columns, lengths),
        "## The fronts",
        "Every dot is a schedule at one size; the line joins those that no other beats in both "
        "time and memory. Sizes: v chunks per rank, k segments per sequence, +R recompute.",
        *(_length(column) for column in lengths),
    ]
    return "\n\n".join(parts) + "\n"


def _lengths(columns: Sequence[Column]) -> list[Column]:
    """The columns of the main setting, which comes first: they differ in length alone."""
    first = columns[0].setting
    return [
        column
        for column in columns
        if (column.setting.ranks, column.setting.microbatches) == (first.ranks, first.microbatches)
    ]


def _legend(lengths: Sequence[Column]) -> str:
    setting = lengths[0].setting
    return (
        f"{setting.ranks} ranks, {setting.microbatches} sequences in a step. A cell is the fastest "
        f"size of the schedule that fits in {LIMIT_BYTES / GIB:.0f} GiB per rank: seconds of a "
        "step, global bubble, GiB of the busiest rank, and the size. Bold: on the Pareto front of "
        "all sizes of all schedules. In brackets: nothing fits, the least that it needs. Ordered "
        f"by the time at {lengths[_ORDER].length} tokens."
    )


def _names(columns: Sequence[Column]) -> set[str]:
    return {one.contender.schedule for column in columns for one in column.forecasts}


def _elsewhere(columns: Sequence[Column], lengths: Sequence[Column]) -> Iterator[str]:
    """Schedules that the main setting does not suit, where another does."""
    names = _names(columns) - _names(lengths)
    others = [column for column in columns if names & _names([column])]
    if names:
        yield "These need more sequences for as many ranks:"
        heads = [f"{c.setting.ranks} ranks, {c.setting.microbatches}: {c.length}" for c in others]
        yield _table(others, names, heads)


def _table(columns: Sequence[Column], names: set[str], heads: Sequence[str] = ()) -> str:
    """A row for each schedule, the fastest first."""
    chosen = {name: [_choice(column, name) for column in columns] for name in names}
    by = min(_ORDER, len(columns) - 1)
    fronts = [column.front() for column in columns]
    rows = [
        f"| {name} | "
        + " | ".join(_cell(one, best) for one, best in zip(chosen[name], fronts, strict=True))
        + " |"
        for name in sorted(names, key=lambda name: (_rank(chosen[name][by]), name))
    ]
    head = "| | " + " | ".join(heads or [column.length for column in columns]) + " |"
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])


def _choice(column: Column, name: str) -> Forecast | None:
    """The fastest size of a schedule that fits; else the smallest."""
    own = [one for one in column.forecasts if one.contender.schedule == name]
    fits = [one for one in own if one.peak_bytes <= LIMIT_BYTES]
    if fits:
        return min(fits, key=lambda one: one.step_s)
    return min(own, key=lambda one: one.peak_bytes, default=None)


def _rank(one: Forecast | None) -> float:
    return one.step_s if one is not None and one.peak_bytes <= LIMIT_BYTES else float("inf")


def _cell(one: Forecast | None, best: Sequence[Forecast]) -> str:
    if one is None:
        return "–"
    if one.peak_bytes > LIMIT_BYTES:
        return f"({one.peak_bytes / GIB:.0f} GiB)"
    size = str(one.contender).removeprefix(one.contender.schedule).strip()
    bubble, peak = f"{one.global_bubble_rate:.1%}", f"{one.peak_bytes / GIB:.0f} GiB"
    facts = (f"{one.step_s:.4g} s", bubble, peak, size)
    return "<br>".join(f"**{fact}**" if one in best else fact for fact in facts if fact)


def _best_table(columns: Sequence[Column]) -> str:
    head = (
        "| ranks | sequences | tokens | fastest that fits | fastest in half of its memory "
        "| least memory | 1F1B |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for column in columns:
        setting, fits = column.setting, column.fitting()
        half = [one for one in fits if one.peak_bytes <= fits[0].peak_bytes / 2]
        plain = _choice(column, "1f1b")
        cells = [
            str(setting.ranks),
            str(setting.microbatches),
            column.length,
            _named(fits[0]),
            _named(half[0]) if half else "–",
            _named(min(column.forecasts, key=lambda one: (one.peak_bytes, one.step_s))),
            _named(plain) if plain and plain.peak_bytes <= LIMIT_BYTES else "does not fit",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, *rows])


def _named(one: Forecast) -> str:
    return f"{one.contender}<br>{one.step_s:.4g} s, {one.peak_bytes / GIB:.0f} GiB"


def _length(column: Column) -> str:
    best = column.front()
    rows = [
        f"| {number} | {one.contender} | {one.step_s:.4g} | {best[0].step_s / one.step_s:.1%} "
        f"| {one.peak_bytes / GIB:.0f} | {one.activation_bytes / GIB:.0f} "
        f"| {one.global_bubble_rate:.1%} | {one.span_bubble_rate:.1%} |"
        for number, one in enumerate(best, 1)
    ]
    return "\n\n".join(
        [
            f"### {column.length} tokens",
            f"![Step time against peak memory at {column.length} tokens]"
            f"(frontier/{column.setting.tokens}.svg)",
            "| | schedule | step s | speed | peak GiB | of it activations | global bubble "
            "| span bubble |\n|---|---|---|---|---|---|---|---|\n" + "\n".join(rows),
        ]
    )


def pictures(columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """A file name and an SVG for every length."""
    for column in _lengths(columns):
        yield f"{column.setting.tokens}.svg", _scatter(column)


def _scatter(column: Column) -> str:
    """Memory to the right, time upwards, both logarithmic."""
    shown = [one for one in column.forecasts if one.step_s <= 3 * column.fitting()[0].step_s]
    memories = [one.peak_bytes / GIB for one in shown]
    times = [one.step_s for one in shown]
    across, up = _scale(memories, 60, 700), _scale(times, 330, 20)
    best = column.front()
    line = " ".join(f"{across(b.peak_bytes / GIB):.1f},{up(b.step_s):.1f}" for b in best)
    marks = [
        f'<circle cx="{across(one.peak_bytes / GIB):.1f}" cy="{up(one.step_s):.1f}" r="2.5" '
        f'fill="{"#c62828" if one.contender.recompute else "#607d8b"}" fill-opacity="0.5"/>'
        for one in shown
    ]
    free_x = 0.0
    for number, one in reversed(list(enumerate(best, 1))):  # from the left
        x, y = across(one.peak_bytes / GIB), up(one.step_s)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#1565c0"/>')
        if x >= free_x:
            marks.append(f'<text x="{x - 3:.1f}" y="{y + 16:.1f}" fill="#1565c0">{number}</text>')
            free_x = x + 16
    for memory in _ticks(memories):
        x = across(memory)
        marks.append(f'<path d="M{x:.1f} 330v5" stroke="#888"/>')
        marks.append(f'<text x="{x:.1f}" y="347" text-anchor="middle">{memory:g}</text>')
    for time in _ticks(times):
        y = up(time)
        marks.append(f'<path d="M55 {y:.1f}h5" stroke="#888"/>')
        marks.append(f'<text x="50" y="{y + 4:.1f}" text-anchor="end">{time:g}</text>')
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 370" font-size="11" '
            'font-family="sans-serif" fill="#555">',
            '<rect width="760" height="370" fill="#fff"/>',
            '<path d="M60 20V330H720" fill="none" stroke="#888"/>',
            '<text x="390" y="364" text-anchor="middle">peak memory of the busiest rank, GiB; '
            "red: with recompute</text>",
            '<text x="66" y="16">seconds of a step</text>',
            f'<polyline points="{line}" fill="none" stroke="#1565c0"/>',
            *marks,
            "</svg>\n",
        ]
    )


def _scale(values: Sequence[float], start: float, stop: float):
    """A logarithmic scale from the smallest value at `start` to the largest at `stop`."""
    low, high = log(min(values)), log(max(values))
    width = (high - low) or 1.0
    return lambda value: start + (log(value) - low) / width * (stop - start)


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers within the range."""
    steps = [base * 10**power for power in range(-2, 5) for base in (1, 1.5, 2, 3, 5, 7)]
    return [step for step in steps if min(values) <= step <= max(values)]
