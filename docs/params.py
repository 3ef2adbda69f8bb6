"""docs/params.md, from the schema in posttrain/params/ and the values of params.yaml.

python docs/params.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from posttrain.params.file import check_params, read_yaml, section_in
from posttrain.params.rewards import CustomReward, Rewards
from posttrain.params.schema import Params, Source
from posttrain.params.section import Section
from posttrain.paths import PARAMS

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("params.md")

HEAD = """# Every key of params.yaml

Made by `python docs/params.py` from the schema in [posttrain/params/](../posttrain/params/).

A key without a default has to be in the file. Those of `launch` (hardware) and of `grpo.health` (thresholds) have one
each, so a section may be there in part, down to a rule's `action` without its threshold, and `launch` not at all.

`dvc exp run -S grpo.beta=0.02` changes a key that is in the file, `-S +grpo.health.max_rollbacks=1` adds one that is
not. DVC compares the text: a default of `grpo.health` that is written out has grpo run again, to the same bytes. No key
of `launch` reruns anything.

Keys have the names of TRL where it has one. Where the GRPO tutorial has another, that is in the meaning.
"""
TABLE = "| key | values | default | ships | meaning |\n|---|---|---|---|---|\n"
NAMES = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", NoneType: "`null`", dict: "mapping"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
ABSENT: Any = PydanticUndefined
"""In place of a value that there is not; null is one."""


def reference() -> str:
    """The page."""
    shipped = check_params(read_yaml(ROOT / PARAMS), PARAMS)  # without this machine's environment
    own = [name for name, field in Params.model_fields.items() if section_in(field.annotation) is None]
    page = HEAD + "\n" + TABLE + "".join(row(name, Params.model_fields[name], ABSENT, shipped) for name in own)
    for name, field in Params.model_fields.items():
        if (section := section_in(field.annotation)) is not None:
            page += f"\n## {name}\n\n{one_line(section.__doc__)}\n\n{TABLE}"
            page += "".join(rows(section, field.default, getattr(shipped, name)))
    return page


def rows(section: type[Section], default: Any, shipped: Any, prefix: str = "") -> Iterator[str]:
    """A row for each key, those of a section within after it. `default`, `shipped`: the section, if there is one."""
    for name, field in section.model_fields.items():
        yield row(name, field, default, shipped, prefix)
        if section is not Source and (inner := section_in(field.annotation)) is not None:
            below = value_of(default, name, field.default), value_of(shipped, name)
            yield from rows(inner, *below, f"{prefix}{name}{'[]' if inner is Source else ''}.")
    if section is Rewards:
        yield f"| `NAME` | section |  |  | {one_line(CustomReward.__doc__)} |\n"
        yield from rows(CustomReward, ABSENT, ABSENT, "NAME.")


def row(name: str, field: FieldInfo, default: Any, shipped: Any, prefix: str = "") -> str:
    cells = [
        f"`{prefix}{name}`",
        values(field.annotation, field.metadata) + "".join(f", such as {shown(one)}" for one in field.examples or []),
        shown(value_of(default, name, field.default)),
        shown(value_of(shipped, name)),
        one_line(field.description),
    ]
    return f"| {' | '.join(cells)} |\n"


def value_of(section: Any, name: str, otherwise: Any = ABSENT) -> Any:
    return getattr(section, name) if isinstance(section, Section) else otherwise


def shown(value: Any) -> str:
    """A value as in YAML; nothing for a section or where there is none."""
    if value is ABSENT or isinstance(value, Section):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def values(kind: Any, metadata: list[Any]) -> str:
    """What a key takes: `number > 0, ≤ 1`."""
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        return values(arguments[0], [item for field in arguments[1:] for item in getattr(field, "metadata", [])])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if kind == list[Source]:
        return "list of sections"
    if get_origin(kind) is list:
        return f"list of {values(arguments[0], [])}"
    if get_origin(kind) is not dict and arguments:
        return " or ".join(values(argument, metadata) for argument in arguments)
    if isinstance(kind, type) and issubclass(kind, Section):
        return "section"
    bounds = [
        f"{sign} {getattr(item, name)}" for item in metadata for name, sign in SIGNS.items() if hasattr(item, name)
    ]
    name = NAMES[get_origin(kind) or kind]
    return f"{name} {', '.join(bounds)}" if bounds and kind is not NoneType else name


def one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
