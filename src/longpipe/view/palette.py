"""Colours and words of the page and of pictures, in one place.

The kinds' colours are light and dark forms of Okabe and Ito's set, which people with any of the
common colour-blindnesses tell apart; the kind's letter stands on every op that has room for it.
Idle causes differ in lightness.
"""

KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "R": "recompute",
    "UNSHARD": "weights gathered",
    "REDUCE_GRAD": "gradients reduced",
}
CAUSES = {
    "warm-up": "before the first op",
    "imbalance": "waiting for work elsewhere",
    "in-flight": "waiting for a message",
    "cool-down": "after the last op",
}

LIGHT = {
    "back": "#ffffff", "panel": "#f6f7f9", "text": "#18202c", "faint": "#566173",
    "line": "#dfe3ea", "focus": "#0b57d0", "on-op": "#10161f",
    "F": "#8fcdf2", "B": "#f2b134", "I": "#35b08c", "W": "#f6ec86", "R": "#d99ac0",
    "UNSHARD": "#0072b2", "REDUCE_GRAD": "#c25a00",
    "warm-up": "#ccd2dc", "imbalance": "#5d6778", "in-flight": "#d55e00", "cool-down": "#98a2b3",
    "memory": "#b9b2e3", "memory-edge": "#6f63b8",
}  # fmt: skip
DARK = {
    "back": "#12161d", "panel": "#1a2029", "text": "#e6eaf1", "faint": "#a3adbd",
    "line": "#2c3441", "focus": "#8ab4f8", "on-op": "#0c1118",
    "F": "#56b4e9", "B": "#e69f00", "I": "#1fa580", "W": "#e3d855", "R": "#cc79a7",
    "UNSHARD": "#4a9fe0", "REDUCE_GRAD": "#e07a2f",
    "warm-up": "#3f4856", "imbalance": "#a9b3c3", "in-flight": "#f0702a", "cool-down": "#667184",
    "memory": "#4b437f", "memory-edge": "#9a8fe0",
}  # fmt: skip


def css() -> str:
    """The colours as CSS variables: by the system's setting, unless the page sets `data-theme`."""
    return "\n".join(
        [
            f":root {{ color-scheme: light; {_variables(LIGHT)} }}",
            "@media (prefers-color-scheme: dark) { :root:not([data-theme='light']) "
            f"{{ color-scheme: dark; {_variables(DARK)} }} }}",
            f":root[data-theme='dark'] {{ color-scheme: dark; {_variables(DARK)} }}",
        ]
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
