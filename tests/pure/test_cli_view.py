"""`longpipe view`: what it takes, what it writes, and what it says at what costs."""

import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from longpipe import Event, Problem, Timeline, UniformCosts, build, simulate
from longpipe.cli.main import app
from longpipe.cost import Link, MeasuredCosts
from longpipe.cost.measured import Measured, Slot
from longpipe.ir import Kind, to_text
from longpipe.plan.plan import Plan
from longpipe.view import Align, Panel, draw, save_timelines, to_svg

SIZE = ("--ranks", 2, "--microbatches", 3)


def run(*arguments: object) -> Result:
    """`longpipe view` with these arguments."""
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


def ok(*arguments: object) -> str:
    """Its output; it must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return str(result.stdout)


def heads(path: Path) -> list[dict[str, Any]]:
    """The timelines that a page holds."""
    found = re.search(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found
    return list(json.loads(found[1])["panels"])


def timeline(problem: Problem | None = None, scale: float = 1.0) -> Timeline:
    """1F1B, measured."""
    problem = problem or Problem(2, 3)
    plan = simulate(build("1f1b", problem), UniformCosts(problem))
    rows = tuple(
        tuple(Event(e.op, e.start_s * scale, e.end_s * scale, 1e9, 2e9) for e in row)
        for row in plan.rows
    )
    return Timeline(plan.name, "measured", rows)


def costs() -> MeasuredCosts:
    """Of two stages: F 2 s, B 5 s; it holds 300 bytes."""
    ops = {}
    for stage in range(2):
        ops[Slot(Kind.F, stage, 0)] = Measured(2.0, 300, 400)
        ops[Slot(Kind.B, stage, 0)] = Measured(5.0, -300, 200)
    link = Link(0.0, 1e9)
    return MeasuredCosts(ops, (1000,), {(0, 1): link, (1, 0): link})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """To work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_schedules_one_above_another(folder: Path) -> None:
    """By name and as a file, each a group of its own, at unit costs and saying so."""
    (folder / "mine.txt").write_text(to_text(build("gpipe", Problem(2, 3))), encoding="utf-8")
    said = ok("1f1b", "zb-h1", *SIZE, "--comm", "0.5")
    assert said.splitlines()[-1] == "wrote view.html"
    names = [(head["name"].split()[0], head["group"]) for head in heads(folder / "view.html")]
    assert names == [("1f1b", 0), ("zb-h1", 1)]
    assert "(unit costs F=1,I=1,W=1, messages 0.5)" in said
    ok("mine.txt", "--output", "mine.html")
    assert [head["name"].split()[0] for head in heads(folder / "mine.html")] == ["gpipe"]


def test_one_schedule_may_have_options_of_its_own(folder: Path) -> None:
    """Those of the title; the others have the shared ones."""
    ok("1f1b", "seq1f1b segments=4 costs=F=2", "zb-v", *SIZE)
    names = [head["name"] for head in heads(folder / "view.html")]
    assert names[:2] == [
        "1f1b ranks=2 microbatches=3",
        "seq1f1b ranks=2 microbatches=3 segments=4",
    ]
    assert [head["note"] for head in heads(folder / "view.html")][1] == "unit costs F=2"


def test_a_run_has_its_plan_above(folder: Path) -> None:
    """From its folder, while it runs and after; in one group, in seconds."""
    (folder / "run").mkdir()
    save_timelines(folder / "run" / "predicted.json", [replace(timeline(), source="simulated")])
    ok("run")
    assert [head["source"] for head in heads(folder / "view.html")] == ["simulated"]
    save_timelines(folder / "run" / "measured.json", [timeline(scale=1.5)])
    ok("run")
    found = heads(folder / "view.html")
    assert [head["source"] for head in found] == ["simulated", "measured"]
    assert {(head["group"], head["seconds"], head["note"]) for head in found} == {(0, True, "run")}
    ok("run/measured.json", "run/predicted.json")
    assert [head["seconds"] for head in heads(folder / "view.html")] == [True, False]


def test_a_plan_is_simulated_at_the_costs_at_hand(folder: Path) -> None:
    """Unit costs, or those of a file; either is named."""
    plan = Plan("1f1b", Problem(2, 3), partition=(3, 1), cuts=((8,),) * 3)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    assert "(plan.json, unit costs F=1,I=1,W=1)" in ok("plan.json")
    assert heads(folder / "view.html")[0]["makespan"] == 12
    (folder / "costs.json").write_text(costs().to_json(), encoding="utf-8")
    assert "(plan.json, costs of costs.json)" in ok("plan.json", "--costs-file", "costs.json")
    (head,) = heads(folder / "view.html")
    assert head["makespan"] == pytest.approx(4 * 7)
    assert (head["seconds"], head["peaks"]) == (True, [800, 500])
    ok("1f1b", *SIZE, "--costs-file", "costs.json")
    assert heads(folder / "view.html")[0]["makespan"] == pytest.approx(4 * 7)


def test_a_bound_in_bytes_needs_costs_in_bytes(folder: Path) -> None:
    """Without them it is left out, and the page says so."""
    plan = Plan("zb-h1", Problem(2, 3), (1, 1), ((8,),) * 3, weight_queue_bytes=10)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    assert "weight_queue_bytes left out" in ok("plan.json")


def test_svg(folder: Path) -> None:
    """Well-formed; every op a box with its colour, names where there is room."""
    ok("1f1b", "zb-h1", *SIZE, "--output", "x.svg")
    root = ElementTree.parse(folder / "x.svg").getroot()
    texts = [node.text or "" for node in root.findall("{*}text")]
    assert texts.count("1F2") == 2
    assert [text for text in texts if text.startswith("simulated")] == [
        "simulated 1f1b ranks=2 microbatches=3",
        "simulated zb-h1 ranks=2 microbatches=3",
    ]
    assert "idle: warm-up" in texts


def test_png(folder: Path) -> None:
    """A PNG of the size of the drawing, twice as fine."""
    ok("1f1b", *SIZE, "--output", "x.png")
    content = (folder / "x.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    panel = Panel(simulate(build("1f1b", Problem(2, 3)), UniformCosts(Problem(2, 3))))
    drawing = draw([panel])
    assert struct.unpack(">II", content[16:24]) == (2 * drawing.width, 2 * drawing.height)
    assert len(zlib.decompress(content[content.index(b"IDAT") + 4 :][: len(content)])) > 1e5


def test_a_trace_for_perfetto(folder: Path) -> None:
    """The same as `export --format chrome` of each."""
    ok("1f1b", "gpipe", *SIZE, "--output", "x.json")
    events = json.loads((folder / "x.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}


def test_aligned_pictures_fill_the_width() -> None:
    """Each makespan as wide as the longest."""
    panels = [Panel(timeline()), Panel(timeline(scale=0.25))]

    def ends(align: Align | None) -> set[float]:
        svg = ElementTree.fromstring(to_svg(draw(panels, align)))
        boxes = [box for box in svg.findall("{*}rect") if box.get("fill") == "#f2b134"]
        return {round(float(b.get("x", 0)) + float(b.get("width", 0))) for b in boxes}

    assert max(ends(Align.MAKESPAN)) == max(ends(None))
    assert len(ends(Align.MAKESPAN)) < len(ends(None))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("1f1b", *SIZE, "--output", "x.pdf"), 2, ".svg"),
        ((".",), 1, "predicted.json"),
        (("costs.json",), 1, "--costs-file"),
        (("missing.json",), 1, "missing.json"),
        (("1f1b", *SIZE, "--costs-file", "missing.json"), 1, "missing.json"),
        (("1f1b", *SIZE, "--costs-file", "plan.json"), 1, "plan.json"),
        (("plan.json",), 1, "plan.json"),
        (("1f1b", "--ranks", 16, "--microbatches", 4000, "--output", "x.svg"), 1, ".png"),
        (("1f1b", "--ranks", 1000, "--microbatches", 4, "--output", "x.png"), 1, ".html"),
        (("1f2b", *SIZE), 1, "1f1b"),
        (("1f1b size=3", *SIZE), 2, "segments"),
        (("1f1b ranks=x", *SIZE), 2, "ranks"),
    ],
)
def test_what_cannot_be_shown(
    folder: Path, arguments: tuple[object, ...], status: int, message: str
) -> None:
    """The culprit and a way out; nothing is written."""
    (folder / "costs.json").write_text(costs().to_json(), encoding="utf-8")
    (folder / "plan.json").write_text('{"format": "longpipe plan 1"}', encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["costs.json", "plan.json"]
