"""The command line's reference, from the verbs' own signatures and docstrings."""

import re
from collections.abc import Iterator
from enum import Enum
from inspect import Parameter, getdoc, signature
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, CommandInfo

from longpipe.cli.main import app

_HEAD = """\
# Command line

`longpipe VERB --help` prints what stands here. Verbs whose output a program might read have
`--json`. Exit status 0 means yes, 1 a fault that the message on standard error explains, 2 a wrong
call."""


def page() -> str:
    """The whole page."""
    verbs = sorted(app.registered_commands, key=_name)
    return "\n\n".join([_HEAD, *map(_verb, verbs)]) + "\n"


def _name(command: CommandInfo) -> str:
    assert command.callback is not None, "every verb is a function"
    return command.name or command.callback.__name__


def _verb(command: CommandInfo) -> str:
    hints = get_type_hints(command.callback, include_extras=True)
    assert command.callback is not None, "every verb is a function"
    given = [(p, *get_args(hints[p.name])) for p in signature(command.callback).parameters.values()]
    example = re.search(r"`([^`]+)`", command.epilog or "")
    assert example, f"longpipe {_name(command)} --help shows no example"
    usage = " ".join(["longpipe", _name(command), *_usage(given)])
    return "\n\n".join(
        [
            f"## {_name(command)}",
            getdoc(command.callback) or "",
            f"```text\n{usage}\n```",
            "\n".join(["| | default | meaning |", "|---|---|---|", *(_row(*one) for one in given)]),
            "Example:",
            "<!-- not run: a reference; the tutorial's examples run -->\n"
            f"```console\n$ {example[1]}\n```",
        ]
    )


def _usage(given: list[Any]) -> Iterator[str]:
    for parameter, kind, info in given:
        if isinstance(info, ArgumentInfo):
            name = _label(parameter, info) + ("..." if "list" in str(kind) else "")
            yield name if parameter.default is Parameter.empty else f"[{name}]"
    if any(not isinstance(info, ArgumentInfo) for _, _, info in given):
        yield "[OPTIONS]"


def _label(parameter: Parameter, info: Any) -> str:
    if isinstance(info, ArgumentInfo):
        return str(info.metavar or parameter.name.upper())
    names = [
        name for name in (info.default, *(info.param_decls or ())) if str(name).startswith("-")
    ]
    return ", ".join(names) or f"--{parameter.name.replace('_', '-')}"


def _row(parameter: Parameter, kind: Any, info: Any) -> str:
    meaning = info.help
    if isinstance(kind, type) and issubclass(kind, Enum):
        meaning += " One of " + ", ".join(f"`{choice.value}`" for choice in kind) + "."
    cells = (f"`{_label(parameter, info)}`", _default(parameter.default), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is Parameter.empty:
        return "required"
    if value is None or value is False:
        return ""
    return f"`{value.value if isinstance(value, Enum) else value}`"
