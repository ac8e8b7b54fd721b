"""A headless browser for the viewer's page: Chromium of the system, driven by Playwright.

Where there is none the tests are skipped; with LONGPIPE_NEED_BROWSER set, as `.ci/run` does once it
has installed one, they fail instead.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from longpipe.view import Panel, html_page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file, gone after them; each test has its own page."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(_NAMES)} is on PATH (apt-get install chromium)"
        if os.environ.get("LONGPIPE_NEED_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def view(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens panels, and proves at the end that nothing was complained about or fetched."""
    pages, said, asked = [], [], []

    def open_page(panels: Sequence[Panel], *, dark: bool = False, **options: object) -> Page:
        path = tmp_path / f"view{len(pages)}.html"
        path.write_text(html_page(panels, **options), encoding="utf-8")  # type: ignore[arg-type]
        page = browser.new_page(
            viewport={"width": 1280, "height": 800}, color_scheme="dark" if dark else "light"
        )
        page.set_default_timeout(120_000)  # the machine may be busy
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert said == []
    assert asked == [(tmp_path / f"view{number}.html").as_uri() for number in range(len(pages))]
