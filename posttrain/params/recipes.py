"""Recipes are overlays on the params that ship: `posttrain recipe NAME` makes params.yaml that recipe, comments kept.

Reads   recipes/NAME.yaml, whose first comment line says what it is; recipes/tiny.yaml, the params that ship
Writes  params.yaml, whole or not at all, after the new content passed the schema

What params.yaml held before makes no difference to the values, so one recipe after another is the same as the second
alone, and nothing of a run that was tried before is left in the next.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.params import plain_yaml
from posttrain.params.file import check_params, merged, read_yaml
from posttrain.paths import PARAMS, RECIPES

SHIPPED = "tiny"
"""The recipe that is complete."""


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
    try:
        first = plain_yaml.read_yaml_text(path).partition("\n")[0]
    except InputError as error:
        return f"cannot be used: {error.got}"
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def apply_recipe(name: str) -> None:
    """Give params.yaml the values of a recipe.

    Raises: InputError if there is no such recipe, or if the result would not be valid params.
    """
    unfinished = PARAMS.with_suffix(".yaml.tmp")
    unfinished.write_text(overlaid(name, {}), encoding="utf-8")
    unfinished.replace(PARAMS)


def overlaid(recipe: str | None, changes: Mapping[str, Any], params: str | None = None) -> str:
    """The text of params.yaml with the values of a recipe, if any, then changes such as `{"grpo.num_generations": 8}`.

    `params` stands in for the file's text.

    Raises: InputError if there is no such recipe, or if the result would not be valid params.
    """
    from posttrain.params.round_trip import dump, load

    wanted = None if recipe is None else _values_of(recipe)
    if params is None:
        read_yaml(PARAMS)  # for its messages
        params = plain_yaml.read_yaml_text(PARAMS)
    values = load(params)
    if wanted is not None:
        _replace(values, wanted, load(plain_yaml.read_yaml_text(_path_of(SHIPPED))))
    for dotted, value in changes.items():
        _merge(values, _nested(dotted, value))
    check_params(values, Path("the overrides") if changes else PARAMS if recipe is None else _path_of(recipe))
    return dump(values)


def _values_of(recipe: str) -> dict[str, Any]:
    """All values of a recipe: those that ship, with its own in their place.

    Raises: InputError if there is no such recipe.
    """
    from posttrain.params.round_trip import load

    layers = []
    for path in (_path_of(recipe), _path_of(SHIPPED)):
        read_yaml(path)  # for its messages
        layers.append(load(plain_yaml.read_yaml_text(path)))
    own, shipped = layers
    return merged(shipped, own)


def _path_of(recipe: str) -> Path:
    path = RECIPES / f"{recipe}.yaml"
    if path not in RECIPES.glob("*.yaml"):  # not `is_file`, which raises for a name that is too long
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
    """Put the overlay's values into the base, where the comments are; see `merged`."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _replace(base: Any, wanted: Mapping[str, Any], shipped: Any) -> None:
    """Leave nothing in the base but the wanted values, and the comments of the keys that stay.

    A section that was null comes back with the comments of the shipped one.
    """
    for key in [key for key in base if key not in wanted]:
        del base[key]
    for key, value in wanted.items():
        known = shipped.get(key) if isinstance(shipped, dict) else None
        if isinstance(value, dict) and isinstance(known, dict) and key in base and base[key] is None:
            base[key] = known
        before = base.get(key)
        if before and value and isinstance(before, dict) and isinstance(value, dict):
            _replace(before, value, known)
        elif key not in base or before != value:  # a mapping is never emptied: ruamel would write no YAML
            base[key] = value
