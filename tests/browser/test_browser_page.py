"""The viewer's page as a person uses it: pointer, wheel, keys, search, themes."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page

from longpipe import Event, Op, Problem, Timeline, UniformCosts, build, simulate
from longpipe.view import Align, Panel, of_run

Open = Callable[..., Page]  # what the fixture `view` is
LEFT, TOP = 104, 26  # of the drawing: names of ranks, axis


def predicted(name: str = "1f1b", problem: Problem | None = None, **costs: Any) -> Timeline:
    """A simulated timeline, on 4 ranks if nothing else is said."""
    problem = problem or Problem(4, 8)
    return simulate(build(name, problem), UniformCosts(problem, **costs))


def run() -> tuple[Panel, ...]:
    """What a run left: each op took 1.25 times as long as planned, in seconds and bytes."""
    plan = predicted(comm="0.5")

    def scaled(by: float, source: str) -> Timeline:
        rows = tuple(
            tuple(
                Event(e.op, e.start_s * by, e.end_s * by, *(1e6 * (x or 0) for x in e[3:]))
                for e in row
            )
            for row in plan.rows
        )
        waits = tuple(tuple(w * by for w in row) for row in plan.waits_s or ())
        return Timeline(plan.name, source, rows, waits)

    return of_run([scaled(0.01, "simulated"), scaled(0.0125, "measured")])


def number_of(page: Page, text: str, panel: int = 0) -> int:
    """The page's number of an op."""
    found = page.evaluate(
        """([text, panel]) => {
            const { model } = viewer;
            for (const row of model.rows) {
              if (row.panel.number !== panel) continue;
              for (let op = row.first; op < row.stop; op += 1) {
                if (viewer.textOf(op) === text) return op;
              }
            }
            return -1;
        }""",
        [text, panel],
    )
    assert found >= 0, text
    return int(found)


def middle(page: Page, text: str, panel: int = 0) -> tuple[float, float]:
    """Where the op's middle is in the window."""
    x, y, width, height = page.evaluate("op => viewer.rectangle(op)", number_of(page, text, panel))
    box = page.locator("#stage").bounding_box()
    assert box
    return box["x"] + x + width / 2, box["y"] + y + height / 2


def tooltip(page: Page) -> dict[str, str]:
    """What it says, by name; title and place too."""
    tip = page.locator("#tooltip")
    assert tip.is_visible()
    names = tip.locator("dt").all_inner_texts()
    values = tip.locator("dd").all_inner_texts()
    head = {"title": tip.locator("b").inner_text(), "place": tip.locator("span").inner_text()}
    return head | dict(zip(names, values, strict=True))


def span(page: Page) -> tuple[float, float]:
    """The stretch of time in sight."""
    page.wait_for_timeout(50)
    start, end = page.evaluate("() => [viewer.axis.from, viewer.axis.to]")
    return start, end


def focus(page: Page) -> None:
    """By tabs alone, from the top of the page."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "stage":
            return
    raise AssertionError("the tab key never comes to the timeline")


def test_hover_tells_the_ops_numbers(view: Open) -> None:
    """Those of the timeline that went in: place, times, memory before, after and at the peak."""
    timeline = predicted("seq1f1b", Problem(4, 4, segments=2), comm="0.25")
    page = view([Panel(timeline)])
    page.mouse.move(*middle(page, "2B1.1"))
    row = timeline.rows[2]
    at = next(at for at, event in enumerate(row) if str(event.op) == "2B1.1")
    event, before = row[at], row[at - 1].memory
    said = tooltip(page)
    assert said["title"] == "2B1.1 backward"
    assert said["place"] == "rank 2, simulated"
    assert (said["stage"], said["micro-batch"], said["segment"]) == ("2", "1", "1")
    numbers = (event.start_s, event.end_s, event.end_s - event.start_s)
    assert tuple(float(said[name]) for name in ("start", "end", "time")) == numbers
    memory = tuple(float(said[f"memory {name}"]) for name in ("before", "after", "peak"))
    assert memory == (before, event.memory, event.peak)


def test_hover_over_idle_time_tells_its_causes(view: Open) -> None:
    """Before the first op warm-up; between ops work elsewhere, then the message."""
    page = view([Panel(predicted(comm="0.5"))])
    x, y = middle(page, "3F0")
    page.mouse.move(LEFT + 5, y)
    assert tooltip(page)["title"] == "idle"
    assert tooltip(page)["warm-up"] == "4.5"
    left, _, _, _ = page.evaluate("op => viewer.rectangle(op)", number_of(page, "0B0"))
    _, y = middle(page, "0B0")
    page.mouse.move(left - 4, y)
    said = tooltip(page)
    assert (said["imbalance"], said["in flight"], said["then"]) == ("8.5", "0.5", "0B0")
    page.mouse.move(x, 790)
    assert page.locator("#tooltip").is_hidden()


def test_a_run_has_each_ranks_plan_above_what_was_measured(view: Open) -> None:
    """Lanes by turns; an op tells what was planned for it; `r` puts them apart and back."""
    page = view(run())
    sources = "() => viewer.placed.lanes.map(({ row }) => [row.rank, row.panel.source[0]])"
    assert page.evaluate(sources)[:4] == [[0, "s"], [0, "m"], [1, "s"], [1, "m"]]
    page.mouse.move(*middle(page, "1F2", panel=1))
    said = tooltip(page)
    assert said["place"] == "rank 1, measured"
    assert (said["time"], said["time simulated"]) == ("12.5 ms", "10 ms (this: +25.0%)")
    assert said["memory peak"] == "3 MB"
    page.locator("#by-rank").click()
    assert [source for _, source in page.evaluate(sources)] == list("ssssmmmm")
    assert page.locator("#by-rank").get_attribute("aria-pressed") == "false"


def test_wheel_drag_and_buttons(view: Open) -> None:
    """The wheel zooms about the pointer, shift or a drag pans, buttons zoom and fit."""
    page = view([Panel(predicted())])
    whole = span(page)
    x, y = middle(page, "1B3")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    near = span(page)
    assert near[1] - near[0] < (whole[1] - whole[0]) / 2
    assert middle(page, "1B3")[0] == pytest.approx(x, abs=4)  # what was pointed at stays
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    dragged = span(page)
    assert dragged[0] > near[0]
    assert dragged[1] - dragged[0] == pytest.approx(near[1] - near[0])
    page.keyboard.down("Shift")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    assert span(page)[0] < dragged[0]
    page.locator("#fit").click()
    assert span(page) == whole
    page.locator("#zoom-in").click()
    assert span(page)[1] - span(page)[0] == pytest.approx(0.8 * whole[1])
    page.locator("#zoom-out").click()
    assert span(page) == pytest.approx(whole)


def test_the_keyboard_alone(view: Open) -> None:
    """Tab to the timeline, arrows over ops and ranks, zoom, pan, home and end, escape."""
    page = view([Panel(predicted())])
    focus(page)
    keys = page.keyboard
    keys.press("ArrowRight")
    assert tooltip(page)["title"] == "0F0 forward"
    keys.press("ArrowRight")
    assert tooltip(page)["title"] == "0F1 forward"
    keys.press("ArrowDown")
    said = tooltip(page)
    assert said["title"] == "1F0 forward"  # what rank 1 does at that time
    assert "1F0 forward, rank 1, simulated: stage 1" in page.locator("#live").inner_text()
    keys.press("End")
    assert tooltip(page)["title"] == "1B7 backward"
    keys.press("Home")
    assert tooltip(page)["title"] == "1F0 forward"
    whole = span(page)
    for _ in range(3):
        keys.press("+")
    near = span(page)
    assert near[1] - near[0] == pytest.approx(whole[1] * 0.8**3)
    keys.press("Shift+ArrowRight")
    assert span(page)[0] > near[0]
    keys.press("0")
    assert span(page) == whole
    keys.press("Enter")
    assert span(page)[1] - span(page)[0] == pytest.approx(8)
    keys.press("Escape")
    assert page.locator("#tooltip").is_hidden()
    keys.press("?")
    assert page.locator("#help").is_visible()
    keys.press("Escape")
    assert page.locator("#help").is_hidden()


def test_everything_has_a_name_and_a_place_in_the_tab_order(view: Open) -> None:
    """Search, buttons, timeline and tables, each reached by tab, seen there, and named."""
    page = view(run())
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id"))
        outline = "() => getComputedStyle(document.activeElement).outlineStyle"
        if reached[-1]:
            assert page.evaluate(outline) == "solid", reached[-1]
    buttons = "search previous next by-rank align zoom-out zoom-in fit theme ask stage"
    assert reached[:11] == buttons.split()
    snapshot = page.locator("body").aria_snapshot()
    for name in ('searchbox "Search ops"', 'button "Zoom in"', 'application "Timeline"', "table"):
        assert name in snapshot


def test_search_goes_from_match_to_match(view: Open) -> None:
    """By op, by parts of one, by filters; what is not understood says so."""
    page = view([Panel(predicted("seq1f1b", Problem(4, 4, segments=2)))])
    focus(page)
    page.keyboard.press("/")
    page.keyboard.type("2F3.1")
    hits = page.locator("#hits")
    assert hits.inner_text() == "1 found"
    page.keyboard.press("Enter")
    assert tooltip(page)["title"] == "2F3.1 forward"
    page.fill("#search", "kind:B stage:1 mb:2")
    assert hits.inner_text() == "2 found"
    page.keyboard.press("Enter")
    assert tooltip(page)["title"] == "1B2.1 backward"
    page.keyboard.press("Enter")
    assert tooltip(page)["title"] == "1B2 backward"
    assert hits.inner_text() == "2 of 2"
    page.keyboard.press("Shift+Enter")
    assert hits.inner_text() == "1 of 2"
    page.fill("#search", "B rank:3")
    assert hits.inner_text() == "8 found"
    page.fill("#search", "stage:x")
    assert "not understood" in hits.inner_text()
    page.fill("#search", "2F")
    page.focus("#stage")
    page.keyboard.press("n")
    assert tooltip(page)["title"] == "2F0 forward"
    page.keyboard.press("p")
    assert tooltip(page)["title"] == "2F3.1 forward"


def pixel(page: Page, x: float, y: float) -> tuple[int, ...]:
    """The colour that is seen at a place of the stage."""
    page.wait_for_timeout(60)
    box = page.locator("#stage").bounding_box()
    assert box
    clip = {"x": box["x"] + round(x), "y": box["y"] + round(y), "width": 1, "height": 1}
    shot = Image.open(BytesIO(page.screenshot(clip=clip)))  # type: ignore[arg-type]
    colour = shot.convert("RGB").getpixel((0, 0))
    assert isinstance(colour, tuple)
    return tuple(map(int, colour))


def test_light_and_dark(view: Open) -> None:
    """As the system says, until somebody presses the button; the drawing as well as the page."""
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light, dark = view([Panel(predicted())]), view([Panel(predicted())], dark=True)
    assert light.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.evaluate(ground) == "rgb(18, 22, 29)"
    assert pixel(light, 3, 60) == (255, 255, 255)
    assert pixel(dark, 3, 60) == (18, 22, 29)
    dark.locator("#theme").click()
    assert dark.evaluate(ground) == "rgb(255, 255, 255)"
    assert pixel(dark, 3, 60) == (255, 255, 255)
    light.emulate_media(color_scheme="dark")
    assert pixel(light, 3, 60) == (18, 22, 29)


def test_timelines_share_one_scale_or_one_width(view: Open) -> None:
    """On one scale the shorter ends earlier; aligned it ends where the other does."""
    panels = [Panel(predicted()), Panel(predicted("zb-h1"), group=1)]
    page = view(panels)
    ends = """() => viewer.model.panels.map((panel) => viewer.axis.x(panel, panel.makespan))"""
    first, second = page.evaluate(ends)
    assert (second - LEFT) / (first - LEFT) == pytest.approx(27 / 33)
    page.locator("#align").click()
    first, second = page.evaluate(ends)
    assert first == pytest.approx(second)
    aligned = view(panels, align=Align.MAKESPAN)
    assert aligned.locator("#align").get_attribute("aria-pressed") == "true"


def test_a_hundred_thousand_ops(view: Open) -> None:
    """The page opens on shares of each pixel, zooms down to names, and finds an op."""
    microbatches = 12_500
    rows = []
    for rank in range(4):
        events, time = [], float(rank)
        for mb in range(microbatches):
            for kind, length in (("F", 1.0), ("B", 2.0)):
                events.append(Event(Op.parse(f"{rank}{kind}{mb}"), time, time + length, 1.0, 2.0))
                time += length
        rows.append(tuple(events))
    page = view([Panel(Timeline("long", "measured", tuple(rows)))])
    assert page.evaluate("() => viewer.model.ops.count") == 100_000
    x, y, _, height = page.evaluate("() => viewer.rectangle(1000)")
    forward, backward = pixel(page, x, y + height - 3), pixel(page, x, y + 3)
    assert forward != backward  # a third of the height is forward, the rest backward
    redraws = page.evaluate("() => viewer.redraws")
    page.mouse.move(600, 150)
    page.mouse.wheel(0, -300)
    page.wait_for_function("before => viewer.redraws > before", arg=redraws)
    page.fill("#search", "3B12000")
    page.keyboard.press("Enter")
    said = tooltip(page)
    assert (said["title"], said["start"]) == ("3B12000 backward", "36.004k")
    _, _, width, _ = page.evaluate("op => viewer.rectangle(op)", number_of(page, "3B12000"))
    assert width > 20


def test_nothing_at_all(view: Open) -> None:
    """No timeline, and one without ops: still no complaint."""
    view([])
    page = view([Panel(Timeline("none", "measured", ((), ())))])
    focus(page)
    for key in ("ArrowRight", "ArrowDown", "End", "+", "0", "Enter", "n"):
        page.keyboard.press(key)


def test_many_ranks_scroll(view: Open) -> None:
    """Page down, or following the selected op; the axis stays on top."""
    page = view([Panel(predicted(problem=Problem(64, 2)))])
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    for _ in range(63):
        page.keyboard.press("ArrowDown")
    assert tooltip(page)["place"] == "rank 63, simulated"
    assert page.evaluate("() => viewer.stage.scrollTop") > 500
    _, y, _, height = page.evaluate("() => viewer.rectangle(viewer.selected)")
    assert TOP <= y <= page.evaluate("() => viewer.height") - height
