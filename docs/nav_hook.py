"""Puts a page into the navigation for each schedule and each decision: a new file is enough."""

from pathlib import Path
from typing import Any

_FOLDERS = {"Schedules": "schedules", "Decisions": "adr"}


def on_config(config: Any) -> Any:
    """Called by mkdocs before it reads the pages."""
    docs = Path(config.docs_dir)
    for item in config.nav:
        for title, folder in _FOLDERS.items():
            if title in item:
                pages = sorted(f"{folder}/{path.name}" for path in (docs / folder).glob("*.md"))
                item[title] += [page for page in pages if page not in item[title]]
    return config
