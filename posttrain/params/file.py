"""Reads params.yaml: plain data, checked against the schema, with this machine's environment in place of `launch` keys.

Reads   params.yaml, POSTTRAIN_LAUNCH_<KEY>
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from posttrain.errors import InputError
from posttrain.params import plain_yaml
from posttrain.params.launch import Launch
from posttrain.params.rewards import CustomReward, Rewards
from posttrain.params.schema import ONE, SEVERAL, Params
from posttrain.params.section import Section

LAUNCH_VARIABLES = "POSTTRAIN_LAUNCH_"
"""Beginning of the environment variables that stand in for keys of `launch` on one machine."""

NO_DEFAULTS = "the schema has no defaults but those of `launch` and `grpo.health`"


def load_params(path: Path) -> Params:
    """The checked content of a params file, with this machine's environment in place of keys of `launch`.

    Raises: InputError naming every wrong key at once, or the variable.
    """
    params = check_params(read_yaml(path), path)
    changes = launch_of(os.environ)
    try:
        launch = Launch.model_validate(merged(params.launch.model_dump(), changes))
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        told = dict.fromkeys(one["msg"] for one in error.errors() if one["loc"][0] == key)
        where, wanted = LAUNCH_VARIABLES + key.upper(), " or: ".join(told)
        raise InputError(where, got=repr(changes[key]), wanted=wanted, do="change or unset it") from None
    return params.model_copy(update={"launch": launch})


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, everything else the overlay's where it has it."""
    both = {key for key, value in overlay.items() if isinstance(value, dict) and isinstance(base.get(key), dict)}
    return {**base, **overlay, **{key: merged(base[key], overlay[key]) for key in both}}


def launch_of(environment: Mapping[str, str]) -> dict[str, Any]:
    """Keys of `launch` from POSTTRAIN_LAUNCH_<KEY>, each value as YAML.

    Raises: InputError for a variable of another name, or one that is no YAML.
    """
    found = {}
    for variable, text in environment.items():
        if not variable.startswith(LAUNCH_VARIABLES):
            continue
        key = variable.removeprefix(LAUNCH_VARIABLES).lower()
        if key not in Launch.model_fields:
            near = difflib.get_close_matches(key, Launch.model_fields, n=1) or list(Launch.model_fields)
            names = ", ".join(LAUNCH_VARIABLES + name.upper() for name in near)
            raise InputError(variable, got="no key of `launch`", wanted=f"one of: {names}", do="unset or rename it")
        found[key] = plain_yaml.parse(text, variable, "change or unset it")
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain Python.

    Raises: InputError
    """
    if not (path.exists() or path.is_symlink()):
        raise InputError(
            str(path),
            got=f"no such file in {Path.cwd().name}/",
            wanted="the parameters of the pipeline",
            do="run from the project's root, or `posttrain recipe tiny` after `git checkout params.yaml`",
        )
    data = plain_yaml.read(path)
    if not isinstance(data, dict):
        raise InputError(str(path), got=type(data).__name__, wanted="a mapping of sections", do="see recipes/tiny.yaml")
    return data


def check_params(data: dict[str, Any], path: Path) -> Params:
    """Params from plain data; `path` only serves the message.

    Raises: InputError naming every wrong key at once.
    """
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        problems = [_describe(dict(item), data) for item in error.errors()]
    where, got, wanted = zip(*problems, strict=True)
    if len(problems) == 1:
        raise InputError(f"{path}: {where[0]}", got=got[0], wanted=wanted[0], do=f"change {where[0]} in {path}")
    lines = [f"{w}: got {g}; wanted {a}" for w, g, a in problems]
    raise InputError(
        str(path),
        got=f"{len(problems)} wrong keys\n          " + "\n          ".join(lines),
        wanted="every key that has no default, none that the schema does not know, each in its range",
        do=f"change these keys in {path}",
    )


def _describe(error: dict[str, Any], data: dict[str, Any]) -> tuple[str, str, str]:
    """Where, got and wanted of one pydantic error."""
    location = [str(part) for part in error["loc"] if part not in (ONE, SEVERAL)]
    where = ".".join(location) or "the file"
    if error["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known)}"
        return where, "an unknown key", hint
    if error["type"] == "missing":
        return _describe_missing(location, where)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return where, message, "keys that fit together"
    return where, repr(error["input"])[:200], message[0].lower() + message[1:]


def _describe_missing(location: list[str], where: str) -> tuple[str, str, str]:
    if location[0] == "rewards" and len(location) == 3 and location[1] not in Rewards.model_fields:
        near = difflib.get_close_matches(location[1], Rewards.model_fields, n=1, cutoff=0.85)
        example = CustomReward.model_fields[location[2]].examples or [""]
        own = f"your own reward's, such as {example[0]}"
        built_in = f"did you mean `{near[0]}`?" if near else f"built-in ones are {', '.join(Rewards.model_fields)}"
        return where, f"no `{location[2]}`, and `{location[1]}` is no built-in reward", f"{own}; {built_in}"
    examples = _model_at(location[:-1]).model_fields[location[-1]].examples
    return where, "no such key", f"a value{f', such as {examples[0]}' if examples else ''}; {NO_DEFAULTS}"


def _keys_at(location: list[str]) -> list[str]:
    return list(_model_at(location).model_fields)


def _model_at(location: list[str]) -> Any:
    """The schema of a section."""
    model: Any = Params
    for part in (part for part in location if not part.isdigit()):
        field = model.model_fields.get(part)
        annotation = field.annotation if field else CustomReward  # only `rewards` has names that are no fields
        model = section_in(annotation)
    return model


def section_in(annotation: Any) -> Any:
    """The section that a key holds, also one that may be null or one of a list; None for none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for kind in get_args(annotation) if (found := section_in(kind)) is not None), None)
