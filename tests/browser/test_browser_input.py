"""The viewer's page by pointer, wheel, keys and search."""

import pytest
from viewer_page import TOP, Open, focus, middle, predicted, run, span, tooltip

from longpipe import Problem, Timeline
from longpipe.view import Panel


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


def test_nothing_at_all(view: Open) -> None:
    """No timeline, and one without ops: still no complaint."""
    view([])
    page = view([Panel(Timeline("none", "measured", ((), ())))])
    focus(page)
    for key in ("ArrowRight", "ArrowDown", "End", "+", "0", "Enter", "n"):
        page.keyboard.press(key)
