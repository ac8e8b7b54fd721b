"""The viewer's page, without a browser: what is in it, and that it needs nothing else."""

import json
import re
import zlib
from base64 import b64decode
from dataclasses import replace
from html import unescape
from math import isnan
from struct import unpack_from
from typing import Any

import pytest

from longpipe import Event, Op, Problem, Timeline, UniformCosts, build, simulate
from longpipe.passes import add_sharding
from longpipe.simulate import measure
from longpipe.view import Align, Panel, html_page, of_run
from longpipe.view import pack as packing
from longpipe.view.palette import CAUSES, DARK, KINDS, LIGHT

_BYTES = 42  # of an op


def predicted(name: str = "1f1b", problem: Problem | None = None, **costs: Any) -> Timeline:
    """A simulated timeline, on 4 ranks if nothing else is said."""
    problem = problem or Problem(4, 4)
    return simulate(build(name, problem), UniformCosts(problem, **costs))


def measured(timeline: Timeline) -> Timeline:
    """The same ops, 1.5 times as slow; nobody knows waits or memory."""
    rows = tuple(
        tuple(Event(e.op, e.start_s * 1.5, e.end_s * 1.5) for e in row) for row in timeline.rows
    )
    return Timeline(timeline.name, "measured", rows)


def pack(timeline: Timeline) -> tuple[list[dict[str, Any]], str]:
    """As the page does."""
    return packing.pack([Panel(timeline)], [measure(timeline)])


def columns(text: str) -> list[tuple[Any, ...]]:
    """What the page's script reads: start, end, memory, peak, wait, mb, stage, seg, kind, flags."""
    content = zlib.decompress(b64decode(text))
    count = len(content) // _BYTES
    found, offset = [], 0
    for letter, size in zip("ddfffIIIBB", (8, 8, 4, 4, 4, 4, 4, 4, 1, 1), strict=True):
        found.append(unpack_from(f"<{count}{letter}", content, offset))
        offset += count * size
    assert offset == len(content)
    return found


def test_every_op_is_packed_once_and_whole() -> None:
    """Rank by rank, with times to the last bit, memory, waits and place."""
    timeline = predicted("seq1f1b", Problem(3, 4, segments=2), comm="0.3")
    heads, text = pack(timeline)
    start, end, memory, peak, wait, mb, stage, seg, kind, _ = columns(text)
    events = [event for row in timeline.rows for event in row]
    waits = [wait for row in timeline.waits_s or () for wait in row]
    assert heads[0]["ops"] == [len(row) for row in timeline.rows]
    for at, event in enumerate(events):
        assert (start[at], end[at]) == (event.start_s, event.end_s)
        assert (memory[at], peak[at]) == (event.memory, event.peak)
        assert wait[at] == pytest.approx(waits[at])
        op = Op(event.op.kind, stage[at], mb[at], seg[at])
        assert (op, list(KINDS)[kind[at]]) == (event.op, event.op.kind.value)


def test_what_nobody_measured_is_not_a_number() -> None:
    """Neither 0 nor missing; and a message's wait counts for the op after it."""
    row = (
        Event(Op.parse("0F0"), 0, 1),
        Event(Op.parse("0SEND_F0"), 1, 1),
        Event(Op.parse("0B0"), 3, 4),
    )
    heads, text = pack(Timeline("", "measured", (row,), ((0.0, 0.5, 1.0),)))
    _, _, memory, peak, wait, *_ = columns(text)
    assert heads[0]["ops"] == [2]
    assert all(map(isnan, (*memory, *peak)))
    assert wait == (0.0, 1.5)
    assert all(map(isnan, columns(pack(measured(predicted()))[1])[4]))


def test_pairs_and_gathers_are_packed() -> None:
    """A flag on the first of two ops that ran as one; gathers behind each rank's compute."""
    problem = Problem(2, 4, chunks=2)
    fused = predicted("dualpipe-v", problem, pair=3)
    assert sum(columns(pack(fused)[1])[-1]) == len(fused.pairs) > 0
    problem = Problem(2, 2, chunks=3)
    sharded = add_sharding(build("looped-bfs", problem))
    timeline = simulate(sharded, UniformCosts(problem, gather=1, reduce=1))
    heads, text = pack(timeline)
    kinds = [list(KINDS)[kind] for kind in columns(text)[-2]]
    ops, beside = heads[0]["ops"], heads[0]["beside"]
    assert beside[0] > 0
    assert {"UNSHARD", "REDUCE_GRAD"} == set(kinds[ops[0] : ops[0] + beside[0]])
    assert not {"UNSHARD", "REDUCE_GRAD"} & set(kinds[: ops[0]])
    assert "weights gathered" in html_page([Panel(timeline)])


def test_the_page_asks_nobody_for_anything() -> None:
    """No address in it, and a policy that forbids the browser to ask."""
    page = html_page([Panel(predicted())])
    assert page.startswith("<!doctype html>")
    for address in ("http:", "https:", "src=", "@import", "url("):
        assert address not in page
    assert "default-src 'none'" in page
    assert "$" not in re.sub(r"\$\{[^}]*|\$/", "", page)  # every blank is filled in


def test_the_tables_say_it_without_a_picture() -> None:
    """Makespan, both bubbles, each cause in total and by rank: as `simulate` prints them."""
    page = html_page([Panel(predicted(comm="0.5"), "unit costs"), Panel(predicted("zb-h1"))])
    rows = [
        [unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", page.partition('aria-label="Numbers"')[2])
    ]
    assert rows[1][0] == "simulated 1f1b ranks=4 microbatches=4 unit costs"
    assert rows[1][1] == "26"
    assert rows[2][1] == "15 (-42.3%)"
    by_rank = next(row for row in rows if row[0] == "r1")  # as `longpipe simulate` prints it
    assert by_rank[1:] == ["12", "14 (53.8%)", "", "1.5", "8.5", "1.5", "2.5", "3"]
    assert sum(row[0] == "all" for row in rows) == 2
    assert sum(row[0] == "r3" for row in rows) == 2


def test_units() -> None:
    """A run's are seconds and bytes; a simulation in its own units has none."""
    plan = predicted()
    bytes_held = tuple(tuple(e._replace(memory=2e9, peak=3e9) for e in row) for row in plan.rows)
    run = html_page(of_run([replace(plan, rows=bytes_held), measured(plan)]))
    assert "31.5 s (+50.0%)" in run
    assert "3 GB" in run
    assert " s<" not in html_page([Panel(plan)])


@pytest.mark.parametrize(
    ("seconds", "asked", "found"),
    [
        ((False, False), None, "time"),
        ((True, False), None, "makespan"),
        ((False, False), Align.MAKESPAN, "makespan"),
        ((True, False), Align.TIME, "time"),
    ],
)
def test_one_scale_unless_the_units_differ(
    seconds: tuple[bool, ...], asked: Align | None, found: str
) -> None:
    """Seconds beside unit costs: shapes are compared, if nobody says otherwise."""
    page = html_page([Panel(predicted(), seconds=each) for each in seconds], asked)
    assert f'"align": "{found}"' in page


def test_names_are_text() -> None:
    """Whatever they hold, in the tables and in what the script reads."""
    page = html_page([Panel(replace(predicted(), name="<b>&", source="</script>"), "<i>")])
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&<" not in page
    assert "<i>" not in page
    assert page.count("</script>") == 3
    content = re.search(r'id="content">(.*?)</script>', page)
    assert content
    assert json.loads(content[1])["panels"][0]["source"] == "</script>"


def test_nothing_at_all_gives_a_page() -> None:
    """No timeline, or one without ops."""
    assert "no timeline" in html_page([])
    assert "none" in html_page([Panel(Timeline("none", "measured", ((), ())))])


def test_a_page_stays_small() -> None:
    """About 10 bytes for each op, however regular it is."""
    timeline = measured(predicted("1f1b", Problem(4, 500), comm="0.123"))
    less = html_page([Panel(predicted())])
    assert len(html_page([Panel(timeline)])) - len(less) < 10 * 4 * 1000


# How people with each colour-blindness see linear RGB (Machado et al. 2009, severity 1.0).
_SEEN = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def lab(colour: str, sight: str) -> tuple[float, float, float]:
    """A colour in CIELAB, as somebody sees it."""
    codes = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in codes]
    seen = [
        min(max(sum(map(float.__mul__, map(float, row), linear)), 0), 1) for row in _SEEN[sight]
    ]
    xyz = [sum(map(float.__mul__, row, seen)) for row in _XYZ]
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (v / w for v, w in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", _SEEN)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("names", [list("FBIWR"), list(CAUSES)], ids=["kinds", "causes"])
def test_colours_are_told_apart(names: list[str], theme: dict[str, str], sight: str) -> None:
    """Any two kinds, and any two causes, differ by far more than the eye's threshold of about 2."""
    seen = [lab(theme[name], sight) for name in names]
    apart = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for at, one in enumerate(seen)
        for other in seen[:at]
    ]
    assert min(apart) > 12


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_letters_are_read(theme: dict[str, str]) -> None:
    """Contrast of at least 4.5, as WCAG 2 asks, of names on ops and of text on the page."""

    def luminance(colour: str) -> float:
        lightness = lab(colour, "all")[0]
        return float(((lightness + 16) / 116) ** 3)

    pairs = [("on-op", kind) for kind in "FBIWR"] + [("text", "back"), ("faint", "back")]
    for ink, ground in pairs:
        low, high = sorted(luminance(theme[name]) for name in (ink, ground))
        assert (high + 0.05) / (low + 0.05) > 4.5, (ink, ground)
