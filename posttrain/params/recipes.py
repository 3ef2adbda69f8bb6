"""Recipes are overlays on params.yaml: `posttrain recipe NAME` merges one in and keeps every comment.

Reads   recipes/NAME.yaml, whose first comment line says what it is
Writes  params.yaml, whole or not at all, after the merged file passed the schema
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.params.file import check_params, read_yaml
from posttrain.paths import PARAMS, RECIPES


def list_recipes() -> list[tuple[str, str]]:
    """Name and first line of every recipe.

    Raises: InputError outside a project.
    """
    if not RECIPES.is_dir():
        raise InputError(
            f"{RECIPES}/",
            got="no such folder here",
            wanted="the project's recipes",
            do="run in the project's root folder",
        )
    return [(path.stem, _title(path)) for path in sorted(RECIPES.glob("*.yaml"))]


def _title(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def apply_recipe(name: str) -> None:
    """Merge a recipe into params.yaml; keys that the recipe does not name keep their values.

    Raises: InputError if there is no such recipe, or if the result would not be valid params.
    """
    scratch = PARAMS.with_suffix(".yaml.tmp")
    scratch.write_text(merged(name, {}), encoding="utf-8")
    scratch.replace(PARAMS)


def merged(recipe: str | None, changes: Mapping[str, Any], params: str | None = None) -> str:
    """The text of params.yaml with a recipe merged in, then changes such as `{"grpo.num_generations": 8}`.

    `params` stands in for the file's text.

    Raises: InputError if there is no such recipe, or if the result would not be valid params.
    """
    from ruamel.yaml import YAML

    path = None if recipe is None else _path_of(recipe)
    for file in filter(None, (path, PARAMS if params is None else None)):
        read_yaml(file)  # for its messages
    yaml = YAML()  # keeps comments, and numbers as they are written
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    values = yaml.load(PARAMS.read_text(encoding="utf-8") if params is None else params)
    if path:
        _merge(values, yaml.load(path.read_text(encoding="utf-8")))
    for dotted, value in changes.items():
        _merge(values, _nested(dotted, value))
    check_params(values, Path("the overrides") if changes else path or PARAMS)
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _path_of(recipe: str) -> Path:
    path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(known for known, _ in list_recipes())
        raise InputError(
            str(path), got="no such file", wanted=f"one of: {known or 'none found'}", do="posttrain recipe"
        )
    return path


def _nested(dotted: str, value: Any) -> Any:
    """`a.b` and 1 as `{"a": {"b": 1}}`; a key that the schema does not know is left for it to name."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def _merge(base: Any, overlay: Any) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
