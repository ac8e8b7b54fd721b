"""How fast the viewer's page draws a long timeline: `make bench-viewer`.

Writes the page of a simulated schedule, opens it in headless Chromium without a GPU, and zooms from
the whole step down to a few ops and back, one zoom a frame. A frame counts from one animation frame
to the next, with everything that the browser does between them.

    python -m benchmarks.viewer [--ranks 16] [--microbatches 800] [--segments 4] [--frames 120]
"""

import argparse
import shutil
import sys
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter

from playwright.sync_api import Page, sync_playwright

from longpipe import Problem, UniformCosts, build, simulate
from longpipe.view import Panel, html_page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ZOOM = """async (frames) => {
  const next = () => new Promise(requestAnimationFrame);
  const found = { frames: [], draws: [] };
  let last = await next();
  for (let frame = 0; frame < frames; frame += 1) {
    const factor = frame < frames / 2 ? 0.88 : 1 / 0.88;
    viewer.axis.zoom(factor, 500);
    const before = performance.now();
    viewer.drawNow();
    found.draws.push(performance.now() - before);
    const now = await next();
    found.frames.push(now - last);
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
        _report(page, options.frames)
        browser.close()


def _report(page: Page, frames: int) -> None:
    found = page.evaluate(_ZOOM, frames)
    for name in ("frames", "draws"):
        times = sorted(found[name])
        slow = quantiles(times, n=20)[-1]
        print(f"{name}: median {median(times):.1f} ms, 95 % within {slow:.1f} ms")


if __name__ == "__main__":
    main()
