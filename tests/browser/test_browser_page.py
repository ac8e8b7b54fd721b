"""What the viewer's page shows: numbers, rows, memory, colours, a hundred thousand ops."""

import pytest
from viewer_page import LEFT, Open, middle, number_of, pixel, predicted, run, tooltip

from longpipe import Event, Op, Problem, Timeline, UniformCosts, build, simulate
from longpipe.passes import add_sharding
from longpipe.view import Align, Panel


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


def test_memory_lies_under_its_rank(view: Open) -> None:
    """Up to the peak where a rank holds it, and nothing before its first op."""
    page = view([Panel(predicted())])
    lane = "() => (({ memoryY, memory }) => [memoryY, memory])(viewer.placed.lanes[0])"
    top, height = page.evaluate(lane)
    x = middle(page, "0F5")[0]  # rank 0 holds its peak of 4 micro-batches here
    assert pixel(page, x, top + 6) == (0xB9, 0xB2, 0xE3)
    assert pixel(page, LEFT + 20, top + 6) == (255, 255, 255)
    assert pixel(page, LEFT + 20, top + height - 3) == (0xB9, 0xB2, 0xE3)


def test_fused_ops_name_each_other(view: Open) -> None:
    """And what runs beside the ops, gathers and reductions, tells its stage."""
    page = view([Panel(predicted("dualpipe-v", Problem(2, 4, chunks=2), pair=3))])
    page.mouse.move(*middle(page, "2F2"))
    assert tooltip(page)["runs as one with"] == "1B0"
    page.mouse.move(*middle(page, "1B0"))
    assert tooltip(page)["runs as one with"] == "2F2"
    problem = Problem(2, 2, chunks=3)
    sharded = simulate(
        add_sharding(build("looped-bfs", problem)), UniformCosts(problem, gather=1, reduce=1)
    )
    page = view([Panel(sharded)])
    x, y, width, height = page.evaluate("() => viewer.rectangle(viewer.model.rows[0].stop)")
    box = page.locator("#stage").bounding_box()
    assert box
    page.mouse.move(box["x"] + x + width / 2, box["y"] + y + height + 3)
    said = tooltip(page)
    assert (said["title"], said["time"]) == ("stage 0 weights gathered", "0.3333")
    assert "micro-batch" not in said


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
