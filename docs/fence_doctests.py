"""Shows the doctests of docstrings as code on the API page (an extension of griffe)."""

from typing import Any

import griffe


class FenceDoctests(griffe.Extension):
    """Puts a fence around each paragraph that begins with `>>>`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_fenced, paragraphs))


def _fenced(paragraph: str) -> str:
    return f"```python\n{paragraph}\n```" if paragraph.startswith(">>> ") else paragraph
