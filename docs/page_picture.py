"""A picture of the viewer's page for the documentation, taken in headless Chromium.

    python docs/page_picture.py runs/demo docs/demo_trace.png
    python docs/page_picture.py docs/viewer.png 1f1b zb-h1 --ranks 4 --microbatches 8 --comm 0.2

What stands before or after the picture's name goes to `longpipe view` as it is.
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import sync_playwright

from longpipe.cli.main import app

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SIZE = {"width": 1280, "height": 720}


def main() -> None:
    """Write the page, open it, point at an op, save what is seen in 255 colours."""
    (picture,) = (text for text in sys.argv[1:] if text.endswith(".png"))
    asked = [text for text in sys.argv[1:] if text != picture]
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        sys.exit(f"needs one of {', '.join(_BROWSERS)}: apt-get install chromium")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "view.html")
        app(["view", *asked, "--output", str(file)], standalone_mode=False)
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=_SIZE)  # type: ignore[arg-type]
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.mouse.move(560, 190)
        page.wait_for_timeout(300)
        page.screenshot(path=picture)
        browser.close()
    shot = Image.open(picture).convert("RGB")
    shot.quantize(255, Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
