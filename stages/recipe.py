"""Recipes are overlays on params.yaml: `posttrain recipe NAME` merges one in and keeps every comment.

Reads   recipes/NAME.yaml, whose first comment line says what it is
Writes  params.yaml, whole or not at all, after the merged file passed the schema
"""

import io
from pathlib import Path
from typing import Any

from stages.errors import InputError
from stages.params import check_params, read_yaml
from stages.paths import PARAMS, RECIPES


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
    from ruamel.yaml import YAML

    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(known for known, _ in list_recipes())
        raise InputError(
            str(path), got="no such file", wanted=f"one of: {known or 'none found'}", do="posttrain recipe"
        )
    for file in (path, PARAMS):
        read_yaml(file)  # for its messages
    yaml = YAML()  # keeps comments, and numbers as they are written
    yaml.width = 4096
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    params, overlay = (yaml.load(file.read_text(encoding="utf-8")) for file in (PARAMS, path))
    _merge(params, overlay)
    check_params(params, path)
    text = io.StringIO()
    yaml.dump(params, text)
    scratch = PARAMS.with_suffix(".yaml.tmp")
    scratch.write_text(text.getvalue(), encoding="utf-8")
    scratch.replace(PARAMS)


def _merge(base: Any, overlay: Any) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
