"""Your own rewards: `path/to/file.py:function` or `module:function`, called in worker processes, never in the trainer.

The function is one of these two, further parameters by name from params.yaml:

    def brevity(completion: Completion, max_words: int) -> float | None
    def shortest(group: list[Completion]) -> list[float | None]

The name of the first parameter decides which. None leaves a completion out of its group's statistics.
"""

import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.graph import graph
from posttrain.params.rewards import CustomReward
from posttrain.paths import GRAPH
from posttrain.processes.pool import Lost, Pool
from posttrain.rewards.completion import Completion, Score

KINDS = ("completion", "group")


class Custom:
    """One reward of the user's, checked when it is made.

    Raises: InputError if there is no such function, if it does not take what params.yaml gives it, or if DVC would not
    notice a change of its file.
    """

    def __init__(self, name: str, params: CustomReward, pool: Pool) -> None:
        self.name, self.params, self.pool = name, params, pool
        self.where = f"params.yaml: rewards.{name}.function"
        self.file = source_file(params.function, self.where)
        require_tracked(self.file, self.where)
        kind = pool.run(first_parameter, [(params.function, params.parameters)], params.timeout_s)[0]
        if isinstance(kind, Lost) or kind not in KINDS:
            raise InputError(
                self.where,
                got=f"{params.function}: {kind.text if isinstance(kind, Lost) else f'first parameter `{kind}`'}",
                wanted="f(completion, ...) or f(group, ...) with the parameters that stand under it in params.yaml",
                do="mend the function or its parameters",
            )
        self.takes_group = kind == "group"

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """The function's value for each item: a completion, or a group as a list.

        Raises: InputError naming the problem on which it failed, or returned no score. There is no silent 0.
        """
        calls = [(self.params.function, item, self.params.parameters) for item in items]
        values = self.pool.run(call, calls, self.params.timeout_s)
        for item, value in zip(items, values, strict=True):
            if fault := self.fault(item, value):
                first: Completion = item[0] if self.takes_group else item
                raise InputError(
                    f"{self.params.function} (rewards.{self.name})",
                    got=f"{fault}, on problem {first.row.get('id', '')} {first.problem[:200]!r}, "
                    f"completion {first.text[:200]!r}",
                    wanted=f"{'a list of finite numbers or None' if self.takes_group else 'a finite number or None'}",
                    do="mend the function; the run has stopped, because a reward of 0 would have hidden this",
                )
        return values

    def fault(self, item: Any, value: Any) -> str | None:
        if isinstance(value, Lost):
            return value.text
        if not self.takes_group:
            return None if is_score(value) else f"it returned {value!r}"
        if isinstance(value, list) and len(value) == len(item) and all(map(is_score, value)):
            return None
        return f"it returned {value!r} for a group of {len(item)}"


def is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def source_file(function: str, where: str) -> Path:
    """The file that defines `path.py:name` or `module:name`."""
    source = function.rpartition(":")[0]
    if source.endswith(".py"):
        path = Path(source)
        found = path if path.is_file() else None
    else:
        sys.path.insert(0, str(Path.cwd()))
        try:
            spec = importlib.util.find_spec(source)
        except (ImportError, ValueError):
            spec = None
        finally:
            sys.path.pop(0)
        found = Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None
    if found is None:
        raise InputError(where, got=f"{source}: no such file or module", wanted="your function", do="mend the path")
    return found.resolve()


def require_tracked(file: Path, where: str) -> None:
    """Raises: InputError if the file is the project's and no dependency of the grpo stage covers it."""
    root = Path.cwd()
    if not GRAPH.is_file() or not file.is_relative_to(root) or ".venv" in file.relative_to(root).parts:
        return
    deps = graph()["grpo"]["deps"]
    if not any(file.is_relative_to((root / dep).resolve()) for dep in deps):
        raise InputError(
            where,
            got=f"{file.relative_to(root)}, which the grpo stage does not depend on",
            wanted="a file under rewards/, so that DVC runs the stage again when it changes",
            do="move it there, or name it among the deps of grpo in dvc.yaml",
        )


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


@functools.cache
def load(function: str) -> Callable[..., Any]:
    """The function; its file is run once for each worker."""
    source, _, name = function.rpartition(":")
    sys.dont_write_bytecode = True  # a __pycache__ beside it would be one more file of the user's
    sys.path.insert(0, str(Path.cwd()))
    if source.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(source).stem, source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    found: Callable[..., Any] = getattr(module, name)
    return found


def first_parameter(function: str, parameters: dict[str, Any]) -> str:
    """Its first parameter's name. Raises: TypeError if it does not take `parameters` besides."""
    signature = inspect.signature(load(function))
    signature.bind(None, **parameters)
    return next(iter(signature.parameters))


def call(function: str, item: Completion | list[Completion], parameters: dict[str, Any]) -> Score | list[Score]:
    value: Score | list[Score] = load(function)(item, **parameters)
    return value
