"""A reward of the user's in a worker process: found, called in the form that its signature asks for, its value checked.

Standard library only, so that a worker starts fast. Nothing here runs in the trainer.
"""

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from posttrain.rewards.completion import Completion, Score

Form = Literal["completion", "group", "batch"]
"""f(completion), f(group), or TRL's f(prompts, completions, **columns)."""

TRLS = ("completions", "prompts")
TRAINERS = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
"""What TRL gives besides, and a reward here does not get: it is a function of text and data, in and out of training."""

TEXTS = re.compile(r"\b(list|sequence|iterable)\[str\]", re.IGNORECASE)
SHOWN_CHARS = 200


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


def form(function: str, parameters: dict[str, Any]) -> Form:
    """How the function is called. Raises: TypeError if it cannot be, or does not take `parameters` besides."""
    signature = inspect.signature(load(function))
    names = list(signature.parameters)
    if names and names[0] in ("completion", "group"):
        signature.bind(None, **parameters)
        return "completion" if names[0] == "completion" else "group"
    if not any(name in names for name in TRLS):
        raise TypeError(f"first parameter `{names[0]}`" if names else "no parameter")
    if asked := [name for name in TRAINERS if name in required(signature)]:
        raise TypeError(f"it asks for `{asked[0]}`, which only a trainer has; give it a default of None")
    if not takes_any(signature) and (unknown := [name for name in parameters if name not in names]):
        raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}")
    return "batch"


def call(function: str, form: Form, completions: list[Completion], parameters: dict[str, Any]) -> list[Score] | str:
    """The function's scores, one for each completion, as plain numbers or None; a text that says what is wrong."""
    found = load(function)
    if form == "completion":
        value = finished(found(completions[0], **parameters))
        try:
            return [score(value)]
        except ValueError:
            return f"it returned {value!r:.{SHOWN_CHARS}}"
    values = finished(
        found(completions, **parameters) if form == "group" else found(**batch(found, completions, parameters))
    )
    listed = values.tolist() if hasattr(values, "tolist") else values  # an array or a tensor
    try:
        if isinstance(listed, list | tuple) and len(listed) == len(completions):
            return [score(one) for one in listed]
    except ValueError:
        pass
    return f"it returned {values!r:.{SHOWN_CHARS}} for a group of {len(completions)}"


def score(value: Any) -> Score:
    """A finite number or None; a number of numpy's or torch's as Python's. Raises: ValueError"""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value) if isinstance(value, float) else int(value)
    raise ValueError(value)


def batch(function: Callable[..., Any], completions: list[Completion], parameters: dict[str, Any]) -> dict[str, Any]:
    """What TRL gives a reward, as far as it takes it: conversations (text where it is annotated so), and columns.

    Raises: TypeError if it asks for a column that the rows lack.
    """
    signature = inspect.signature(function)
    columns = dict.fromkeys(name for completion in completions for name in completion.row)
    given: dict[str, Any] = {"tokens": [completion.tokens for completion in completions]}
    given |= {name: [completion.row.get(name) for completion in completions] for name in columns}
    for name in ("prompt", "completion"):
        given.pop(name, None)
    given["prompts"] = turns("user", [completion.problem for completion in completions], signature, "prompts")
    given["completions"] = turns("assistant", [completion.text for completion in completions], signature, "completions")
    given |= parameters
    if lacking := [name for name in required(signature) if name not in given]:
        raise TypeError(
            f"it asks for `{lacking[0]}`, which is neither a column ({', '.join(sorted(columns)) or 'none'}), which "
            "prepare.columns.keep would make it, nor a parameter in params.yaml"
        )
    return given if takes_any(signature) else {name: given[name] for name in signature.parameters if name in given}


def turns(role: str, texts: list[str], signature: inspect.Signature, name: str) -> list[Any]:
    """Each text as a conversation of one turn, or as it is."""
    wanted = signature.parameters.get(name)
    if wanted is not None and TEXTS.search(str(wanted.annotation)):
        return texts
    return [[{"role": role, "content": text}] for text in texts]


def required(signature: inspect.Signature) -> list[str]:
    """Parameters without a default."""
    free = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = signature.parameters.values()
    return [one.name for one in found if one.default is inspect.Parameter.empty and one.kind not in free]


def takes_any(signature: inspect.Signature) -> bool:
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values())


def finished(value: Any) -> Any:
    """A coroutine's value. One loop for each worker, because clients that a reward keeps belong to theirs."""
    return loop().run_until_complete(awaited(value)) if inspect.isawaitable(value) else value


async def awaited(value: Any) -> Any:
    return await value


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
