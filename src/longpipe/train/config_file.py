"""Config from TOML and command-line overrides, with errors that name the key and the way out."""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from longpipe.errors import ConfigError
from longpipe.train.config import Config


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and lay overrides over it.

    Args:
        path: a TOML file; None: overrides alone.
        overrides: `section.key=value`, the value as TOML writes it; what is not TOML is a string,
            so that quotes may be left out. The last of several wins.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest right name), wrong type, or
            values that contradict each other. All faults are listed, not only the first.
    """
    tree = _read_toml(path) if path else {}
    for override in overrides:
        keys, value = parse_override(override)
        _lay_over(tree, keys, value, override)
    try:
        return Config.model_validate(_tuples(tree))
    except ValidationError as error:
        where = f"{path}:" if path else "the configuration:"
        lines = [where, *(f"  {line}" for line in _explain(error.errors()))]
        raise ConfigError("\n".join(lines)) from error


def save_resolved(config: Config, path: Path) -> None:
    """Write every setting, defaults included, as TOML that `load_config` reads back equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(config.plain()), encoding="utf-8")


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Split `section.key=value` into its keys and the value.

    >>> parse_override("optim.betas=[0.9, 0.99]")
    (('optim', 'betas'), [0.9, 0.99])
    >>> parse_override("train.out_dir=runs/a")
    (('train', 'out_dir'), 'runs/a')
    """
    name, equals, raw = text.partition("=")
    keys = tuple(key.strip() for key in name.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"override {text!r}: write section.key=value, such as train.steps=200")
    try:
        return keys, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, raw.strip()


def known_names() -> tuple[str, ...]:
    """Every dotted name that a config may hold, sections included."""
    return tuple(_names(Config, ""))


def _names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _names(info.annotation, f"{prefix}{name}.")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _lay_over(tree: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    *sections, last = keys
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section} is a value, not a section")
        tree = inner
    tree[last] = value


def _tuples(value: Any) -> Any:
    """TOML's arrays as tuples: the config's values do not change."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(inner) for inner in value)
    return value


def _explain(faults: Sequence[ErrorDetails]) -> list[str]:
    """A line per fault; a value that fits none of several types is one fault."""
    lines: list[str] = []
    wrong: dict[str, list[ErrorDetails]] = {}
    for fault in faults:
        name, index = _dotted(fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {name}{_nearest(name)}")
        elif fault["type"] == "missing":
            kind = "key" if "." in name else "section"
            lines.append(f"missing {kind} {name}{index}")
        elif fault["type"] == "value_error":
            text = str(fault["ctx"]["error"])
            lines.append(f"[{name}] {text}" if name else text)
        else:
            wrong.setdefault(name + index, []).append(fault)
    for name, group in wrong.items():
        if not any(other.startswith(f"{name}[") for other in wrong):
            expected = " or ".join(_expected(fault["msg"]) for fault in group)
            lines.append(f"{name} = {group[0]['input']!r}: expected {expected}")
    return lines


def _expected(message: str) -> str:
    text = message.removeprefix("Input should be ").removeprefix("a valid ")
    return "a list" if text == "tuple" else text


def _dotted(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """The known name in an error's place, and the index in it; unions add parts of no interest."""
    known = set(known_names())
    name, rest = "", list(loc)
    while rest and isinstance(rest[0], str):
        longer = f"{name}.{rest[0]}" if name else rest[0]
        if name in known and longer not in known and name.count(".") == 1:
            break
        name = longer
        rest.pop(0)
    return name, "".join(f"[{part}]" for part in rest if isinstance(part, int))


def _nearest(name: str) -> str:
    """The way out of an unknown name: the likeliest one, or all that may stand there."""
    section, dot, key = name.rpartition(".")
    names = [full for full in known_names() if ("." in full) == bool(dot)]
    beside = [full for full in names if full.rpartition(".")[0] == section]
    # A slip in the key is likelier than a key in the wrong section.
    for candidates in (beside, names):
        keys = {full.rpartition(".")[2]: full for full in candidates}
        if near := difflib.get_close_matches(key, keys, n=1, cutoff=0.7):
            return f": did you mean {keys[near[0]]}?"
    return f": known are {', '.join(beside or names)}"
