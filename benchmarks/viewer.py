"""How fast the viewer's page draws a long timeline: `make bench-viewer`.

Writes the page of a simulated schedule, opens it in headless Chromium without a GPU, and zooms from
the whole step down to a few ops and back, one zoom a frame. Counts the CPU time of all the
browser's processes, which says what a frame takes also where other work keeps the machine busy, and
the wall time from one frame to the next.

    python -m benchmarks.viewer [--ranks 16] [--microbatches 800] [--segments 4] [--frames 120]
"""

import argparse
import shutil
import sys
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter

from playwright.sync_api import Browser, sync_playwright

from longpipe import Problem, UniformCosts, build, simulate
from longpipe.view import Panel, html_page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ZOOM = """async (frames) => {
  const next = () => new Promise(requestAnimationFrame);
  const found = [];
  let last = await next();
  for (let frame = 0; frame < frames; frame += 1) {
    viewer.axis.zoom(frame < frames / 2 ? 0.88 : 1 / 0.88, 500);
    viewer.drawNow();
    const now = await next();
    found.push(now - last);
    last = now;
  }
  return found;
}"""


def main() -> None:
    """Print the sizes, the time to open, and the times of frames."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])  # type: ignore[union-attr]
    for name, default in (("ranks", 16), ("microbatches", 800), ("segments", 4), ("frames", 120)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        sys.exit(f"needs one of {', '.join(_BROWSERS)}: apt-get install chromium")
    problem = Problem(options.ranks, options.microbatches, segments=options.segments)
    timeline = simulate(build("seq1f1b", problem), UniformCosts(problem, comm="0.1"))
    started = perf_counter()
    text = html_page([Panel(timeline)])
    ops = sum(map(len, timeline.rows))
    print(f"{ops:,} ops: page of {len(text) / ops:.1f} bytes an op, {len(text) / 1e6:.2f} MB")
    print(f"written in {perf_counter() - started:.2f} s")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "view.html")
        file.write_text(text, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        started = perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        print(f"open after {perf_counter() - started:.2f} s, Chromium {browser.version}")
        before = _cpu_s(browser)
        times = page.evaluate(_ZOOM, options.frames)
        spent = _cpu_s(browser) - before
        print(f"a frame: {1000 * spent / options.frames:.1f} ms of CPU, all processes")
        slow = quantiles(times, n=20)[-1]
        print(f"wall: median {median(times):.1f} ms, 95 % within {slow:.1f} ms")
        browser.close()


def _cpu_s(browser: Browser) -> float:
    """CPU seconds of the browser's processes until now."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return float(sum(process["cpuTime"] for process in processes))


if __name__ == "__main__":
    main()
