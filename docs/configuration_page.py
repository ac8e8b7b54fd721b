"""The configuration reference, from the fields and docstrings of the config tree."""

import json
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from longpipe.train.config import Config

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_SIGNS = {Gt: "> {0.gt}", Ge: "≥ {0.ge}", Lt: "< {0.lt}", Le: "≤ {0.le}"}
_HEAD = """\
# Configuration reference

A run is one TOML file with a table for each section below. A setting can be changed on the command
line, after the file, as `section.key=value`; the last one wins:

<!-- not run: training -->
```console
$ longpipe train examples/demo.toml train.steps=20 optim.lr=1e-3 'pipeline.cuts="even"'
```

An unknown key, a wrong type or values that contradict each other end the command before any
process is started. All faults are listed, with the nearest right name. The run saves every setting,
defaults included, as `config.toml` in `train.out_dir`.

"Required" means that there is no default; "unset" that leaving the key out has the meaning that
its text gives."""


def page() -> str:
    """The whole page."""
    sections = [_section(name, info) for name, info in Config.model_fields.items()]
    return "\n\n".join([_HEAD, *sections]) + "\n"


def _section(name: str, info: FieldInfo) -> str:
    model = info.annotation
    assert isinstance(model, type), f"{name} is no section"
    assert issubclass(model, BaseModel), f"{name} is no section"
    about = (getdoc(model) or "").partition(": ")[2]
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    return f"## [{name}]\n\n{about[:1].upper()}{about[1:]}\n\n{table}"


def _row(key: str, field: FieldInfo) -> str:
    kind = _type(field.annotation, tuple(field.metadata))
    cells = (f"`{key}`", kind, _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _type(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """In words; bounds as signs."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], tuple(inner[1:]))
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in inner if part is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list, each {_type(inner[0])}"
        return f"list of {len(inner)}, each {_type(inner[0])}"
    bounds = [_SIGNS[type(bound)].format(bound) for bound in metadata if type(bound) in _SIGNS]
    return ", ".join([_WORDS[annotation], *bounds])


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "unset"
    return f"`{json.dumps(field.default)}`"
