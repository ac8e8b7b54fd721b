"""Colour for text pictures."""

from rich.text import Text

_COLOURS = {"F": "blue", "B": "green", "I": "cyan", "W": "yellow", "R": "magenta"}


def coloured(drawn: str) -> Text:
    """A text picture with a colour for each kind."""
    text = Text(drawn)
    for kind, colour in _COLOURS.items():
        text.highlight_regex(rf"\d*{kind}(\d+(\.\d+)?)?( *-)*", colour)
    return text
