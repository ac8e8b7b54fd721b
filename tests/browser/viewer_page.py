"""How tests read the viewer's page: what it says, and where it draws."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from longpipe import Event, Problem, Timeline, UniformCosts, build, simulate
from longpipe.view import Panel, of_run

Open = Callable[..., Page]  # what the fixture `view` is
LEFT, TOP = 104, 26  # of the drawing: names of ranks, axis


def predicted(name: str = "1f1b", problem: Problem | None = None, **costs: Any) -> Timeline:
    """A simulated timeline, on 4 ranks if nothing else is said."""
    problem = problem or Problem(4, 8)
    return simulate(build(name, problem), UniformCosts(problem, **costs))


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
