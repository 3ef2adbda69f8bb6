"""Your own rewards: `path/to/file.py:function` or `module:function`, called in worker processes, never in the trainer.

The function is one of these, sync or async, further parameters by name from params.yaml:

    def brevity(completion: Completion, max_words: int) -> float | None
    def shortest(group: list[Completion]) -> list[float | None]
    def trls(prompts, completions, answer, **columns) -> list[float | None]

The names of the parameters decide which. None leaves a completion out of its group's statistics. The trainer reads the
file's place and hash, and numbers that come back; it imports nothing of it, its package's `__init__` included.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.graph import graph
from posttrain.params.rewards import CustomReward
from posttrain.paths import GRAPH
from posttrain.processes.pool import Lost, Pool
from posttrain.rewards.call import call, form
from posttrain.rewards.completion import Completion


class Custom:
    """One reward of the user's, checked when it is made.

    Raises: InputError if there is no such function, if it does not take what params.yaml gives it, or if DVC would not
    notice a change of its file.
    """

    def __init__(self, name: str, params: CustomReward, pool: Pool) -> None:
        self.name, self.params, self.pool = name, params, pool
        where = f"params.yaml: rewards.{name}.function"
        self.file = source_file(params.function, where)
        require_tracked(self.file, where)
        found = pool.run(form, [(params.function, params.parameters)], params.timeout_s, params.timeout_s)[0]
        if isinstance(found, Lost):
            raise InputError(
                where,
                got=f"{params.function}: {found.text}",
                wanted="f(completion, ...), f(group, ...) or TRL's f(prompts, completions, ...), with the parameters "
                "that stand under it in params.yaml",
                do="mend the function or its parameters",
            )
        self.form = found
        self.takes_group = found != "completion"

    def __call__(self, groups: Sequence[list[Completion]]) -> list[Any]:
        """The function's scores for groups, one list for each; a group of one where it takes one completion.

        Raises: InputError naming the problem on which it failed, or returned no score, as soon as it does. There is no
        silent 0.
        """

        def refuse_faults(number: int, value: Any) -> None:
            if not isinstance(value, list):
                raise self.fault(groups[number][0], value.text if isinstance(value, Lost) else value)

        timeout_s = self.params.timeout_s
        calls = [(self.params.function, self.form, group, self.params.parameters) for group in groups]
        return self.pool.run(call, calls, timeout_s, timeout_s, refuse_faults)

    def fault(self, first: Completion, what: str) -> InputError:
        return InputError(
            f"{self.params.function} (rewards.{self.name})",
            got=f"{what}, on problem {first.row.get('id', '')} {first.problem[:200]!r}, "
            f"completion {first.text[:200]!r}",
            wanted=f"{'a list of finite numbers or None' if self.takes_group else 'a finite number or None'}, within "
            f"rewards.{self.name}.timeout_s",
            do="mend the function; the run has stopped, because a reward of 0 would have hidden this",
        )


def source_file(function: str, where: str) -> Path:
    """The file that defines `path.py:name` or `module:name`."""
    source = function.rpartition(":")[0]
    if source.endswith(".py"):
        path: Path | None = Path(source)
    else:
        spec = find_module(source)
        path = Path(spec.origin) if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(where, got=f"{source}: no such file or module", wanted="your function", do="mend the path")
    return path.resolve()


def find_module(name: str) -> ModuleSpec | None:
    """Where a module is. `importlib.util.find_spec` would import the packages that it lies in."""
    spec: ModuleSpec | None = None
    places: list[str] | None = None
    path: list[str] = []
    sys.path.insert(0, str(Path.cwd()))
    try:
        for part in name.split("."):
            if path and places is None:  # a part of what is no package
                return None
            path.append(part)
            try:
                found = (finder.find_spec(".".join(path), places) for finder in sys.meta_path)
                spec = next((one for one in found if one is not None), None)
            except KeyError:  # a namespace, whose place follows from its package, which nobody has imported
                places = [str(Path(place) / part) for place in places or []]
                continue
            if spec is None:
                return None
            inner = spec.submodule_search_locations
            places = None if inner is None else list(inner)
    finally:
        sys.path.pop(0)
    return spec


def require_tracked(file: Path, where: str) -> None:
    """Raises: InputError if the file is the project's and no dependency of the grpo stage covers it."""
    root = Path.cwd()
    if not GRAPH.is_file() or not file.is_relative_to(root) or ".venv" in file.relative_to(root).parts:
        return
    deps = graph().get("grpo", {}).get("deps", [])
    if not any(file.is_relative_to((root / dep).resolve()) for dep in deps):
        raise InputError(
            where,
            got=f"{file.relative_to(root)}, which the grpo stage does not depend on",
            wanted="a file under rewards/, so that DVC runs the stage again when it changes",
            do="move it there, or name it among the deps of grpo in dvc.yaml",
        )
