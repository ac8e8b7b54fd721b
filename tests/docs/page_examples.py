"""Fenced examples of a Markdown page, and how each is run.

- ```` ```python ````: executed in one namespace per page; one with `>>>` as a doctest.
- ```` ```console ````: `$ longpipe ...` runs in this process, `$ cat FILE` and `$ mkdir DIR` do
  what they say; what follows is the output, in which `...` stands for anything.
- `title="NAME"` on a fence: written to NAME first, in a working folder per page.
- `<!-- not run: REASON -->` on the line before a fence: shown only.
"""

import doctest
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from longpipe.cli.main import app

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
WIDTH = 100  # of the terminal that the pages show


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block; `reason` says why it is not run, if it is not."""

    language: str
    body: str
    line: int
    title: str | None
    reason: str | None


def examples_of(text: str) -> list[Example]:
    """Every fenced block of a page that names its language."""
    return [
        Example(
            language=found["language"],
            body=found["body"],
            line=text.count("\n", 0, found.start("language")) + 1,
            title=found["title"],
            reason=found["reason"],
        )
        for found in _FENCE.finditer(text)
    ]


def run_python(example: Example, names: dict[str, Any], page: str) -> None:
    """Execute a block; what a doctest prints must be what the page shows."""
    if ">>> " not in example.body:
        exec(compile("\n" * example.line + example.body, page, "exec"), names)
        return
    parsed = doctest.DocTestParser().get_doctest(example.body, names, page, page, example.line)
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    result = runner.run(parsed, out=said.append, clear_globs=False)
    names.update(parsed.globs)
    assert not result.failed, "".join(said)


def run_console(example: Example, folder: Path) -> None:
    """Run each command of a block and compare its output."""
    for call in re.split(r"^\$ ", example.body, flags=re.MULTILINE)[1:]:
        command, _, shown = call.partition("\n")
        assert_shown(command, shown, said_by(shlex.split(command), folder))


def said_by(words: list[str], folder: Path) -> str:
    """What a command prints, to both streams."""
    program, *arguments = words
    if program == "longpipe":
        return CliRunner().invoke(app, arguments, env={"COLUMNS": str(WIDTH)}).output
    if program == "cat":
        return "".join((folder / name).read_text(encoding="utf-8") for name in arguments)
    assert program == "mkdir", f"the examples cannot run {program!r}: mark the block as not run"
    for name in arguments:
        (folder / name).mkdir()
    return ""


def assert_shown(command: str, shown: str, said: str) -> None:
    """The page shows what the command says, apart from spaces at the ends of lines."""
    shown, said = ("\n".join(map(str.rstrip, t.strip().splitlines())) for t in (shown, said))
    pattern = ".*".join(map(re.escape, shown.split("...")))
    matches = re.fullmatch(pattern, said, re.DOTALL)
    assert matches, f"$ {command}\nthe page shows:\n{shown}\nit says:\n{said}"
