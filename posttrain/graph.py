"""What dvc.yaml says: stages, what each reads and makes, and which of it DVC caches.

Reads   dvc.yaml
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.params.file import read_yaml
from posttrain.paths import GRAPH


def graph(root: Path = Path()) -> dict[str, Any]:
    """The stages by name; of the working directory if no other root is given.

    Raises: InputError if there is no dvc.yaml, or one without stages.
    """
    path = root / GRAPH
    if not path.is_file():
        raise InputError(
            str(path), got="no such file", wanted="the graph of the pipeline", do="run in the project's root folder"
        )
    stages = read_yaml(path).get("stages")
    if not isinstance(stages, dict):
        raise wrong(path, "no `stages`")
    for name, stage in stages.items():
        if (odd := fault_of(stage)) is not None:
            raise wrong(path, f"stage {name}: {odd}")
    return stages


def stage_of(name: str) -> dict[str, Any]:
    """What the graph of the working directory says of a stage that posttrain asks for.

    Raises: InputError if it has no such stage, or one whose inputs are none or no names
    """
    stage = graph().get(name, {})
    if missing := [key for key in ("deps", "params") if not stage.get(key)]:
        raise wrong(GRAPH, f"no stage {name} with {' and '.join(missing)}")
    if odd := [key for key in ("deps", "params") if not all(isinstance(item, str) for item in stage[key])]:
        raise wrong(GRAPH, f"stage {name}: {' and '.join(odd)} with more than names")
    return dict(stage)


def wrong(path: Path, got: str) -> InputError:
    return InputError(str(path), got=got, wanted="the graph of the pipeline", do=f"git checkout {path.name}")


def fault_of(stage: Any) -> str | None:
    """What is wrong with the form of a stage: lists of names, and outs that may have options."""
    if not isinstance(stage, dict):
        return "no mapping"
    for kind in ("deps", "params", "outs", "metrics", "plots"):
        items = stage.get(kind, [])
        if not isinstance(items, list):
            return f"`{kind}` is no list"
        names = [next(iter(item), None) if isinstance(item, dict) else item for item in items]
        if not all(isinstance(name, str) and name for name in names):
            return f"`{kind}` is no list of names"
        options = [value for item in items if isinstance(item, dict) for value in item.values()]
        if not all(value is None or isinstance(value, dict) for value in options):
            return f"`{kind}` has options that are no mapping"
    return None


def stage_names(root: Path) -> list[str]:
    """The stages in the order of the file, which is an order they can run in."""
    return list(graph(root))


def outs(stage: dict[str, Any]) -> dict[str, bool]:
    """The outs of a stage, and whether DVC caches them: what it does not, `dvc push` leaves behind."""
    found = {}
    for item in (item for kind in ("outs", "metrics", "plots") for item in stage.get(kind, [])):
        path, options = next(iter(item.items())) if isinstance(item, dict) else (item, None)
        found[path] = (options or {}).get("cache", True)
    return found


def restored_by(*paths: Path) -> list[str]:
    """The commands that bring files of outs back as they were recorded: git's for what DVC does not cache."""
    with suppress(InputError):  # nobody asked about the graph
        known = {Path(out): cached for stage in graph().values() for out, cached in outs(stage).items()}
        found = [(path, out) for path in paths for out in known if path.is_relative_to(out)]
        return list(dict.fromkeys(f"dvc checkout {out}" if known[out] else f"git checkout -- {p}" for p, out in found))
    return []


def how_to_restore(made_by: str, *paths: Path) -> str:
    """What to do about files that a stage made and something changed."""
    commands = " and ".join(f"`{command}`" for command in restored_by(*paths))
    return f"restore it with {commands}, or run `posttrain {made_by}` again" if commands else again(made_by)


def again(made_by: str) -> str:
    return f"run `posttrain {made_by}` again"


def small_files(root: Path, stages: Sequence[str] | None = None) -> list[str]:
    """The outs that DVC does not cache, of all stages or of some."""
    known = graph(root)
    return [
        path
        for stage in (known if stages is None else stages)
        for path, cached in outs(known[stage]).items()
        if not cached
    ]


def made_inputs(stage: str, root: Path) -> dict[str, str]:
    """Those of the stage's deps that other stages make and DVC caches, and which stage makes each."""
    stages = graph(root)
    made = {out: name for name, other in stages.items() for out, cached in outs(other).items() if cached}
    return {dep: made[dep] for dep in stages[stage].get("deps", []) if dep in made}


def given_inputs(root: Path) -> list[str]:
    """What the stages depend on and no stage makes."""
    stages = graph(root).values()
    made = {path for stage in stages for path in outs(stage)}
    return sorted({dep for stage in stages for dep in stage.get("deps", [])} - made)
