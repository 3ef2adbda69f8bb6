"""Test cases of a program, in the layouts that data sets have: open-r1's, APPS's and TACO's, LiveCodeBench's.

A case is stdin and what has to be printed, or a function's arguments and what it has to return.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LANGUAGE = "python"
READS = ("stdin_stdout", "stdin")
CALLS = ("function_call", "functional", "call_based")
NAMES = ("fn_name", "func_name")


@dataclass(frozen=True)
class Case:
    """One run: what the program reads on stdin and has to print on stdout."""

    input: str
    output: str
    function: str | None = None
    """Where a function is called: its name. `input` is then its arguments and `output` what it may return, as JSON."""


def read_cases(row: Mapping[str, Any], column: str, language: str) -> list[Case]:
    """Read `row[column]`, or JSON of it:

    - a list of {"input", "output"}, with a "type" or "testtype" and a "fn_name" where a function is called
    - {"language", "test_cases": that list}: open-r1's `verification_info`
    - {"inputs", "outputs", "fn_name"}: APPS's and TACO's `input_output`; an input may be a list of lines

    Raises: ValueError, which names what is wrong.
    """
    if column not in row:
        raise ValueError(f"the row has no column {column!r} with test cases; it has {sorted(row)}")
    where, value = f"column {column!r}", decoded(row[column], f"column {column!r}")
    if isinstance(value, Mapping):
        if value.get("language", language) != language:
            raise ValueError(f"{where}: test cases for {value['language']!r}, while the reward runs {language!r}")
        if "inputs" in value or "outputs" in value:
            return listed(value, where)
        where = f"{where}, key 'test_cases'"
        if "test_cases" not in value:
            raise ValueError(
                f"{where}: a list of at least one test case is wanted, or keys 'inputs' and 'outputs', "
                f"not keys {short(sorted(value))}"
            )
        value = decoded(value["test_cases"], where)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: a list of at least one test case is wanted, not {short(value)}")
    named = name_of(metadata(row.get("metadata")))
    return [case_of(case, named, f"{where}, case {index}") for index, case in enumerate(value)]


def decoded(value: Any, where: str) -> Any:
    """What a text holds as JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: a text that is no JSON: {error}") from None


def listed(value: Mapping[str, Any], where: str) -> list[Case]:
    """APPS's and TACO's layout."""
    inputs, outputs = (decoded(value.get(key), f"{where}, key {key!r}") for key in ("inputs", "outputs"))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        raise ValueError(
            f"{where}: 'inputs' and 'outputs' are lists of the same length, at least one, "
            f"not {short(inputs)} and {short(outputs)}"
        )
    name = name_of(value)
    cases = ({"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True))
    return [case_of(case, name, f"{where}, case {index}") for index, case in enumerate(cases)]


def case_of(case: object, named: str | None, where: str) -> Case:
    if not isinstance(case, Mapping):
        raise ValueError(f"{where}: a mapping with 'input' and 'output' is wanted, not {short(case)}")
    name = name_of(case) or name_of(metadata(case.get("metadata"))) or named
    kind = case.get("type", case.get("testtype", CALLS[0] if name else READS[0]))
    if kind in READS:
        return Case(lines(case, "input", where), lines(case, "output", where))
    if kind not in CALLS:
        raise ValueError(f"{where}: its type is {kind!r}; known are {', '.join(READS + CALLS)}")
    if name is None:
        raise ValueError(f"{where}: its type is {kind!r}, and no 'fn_name' says which function is called")
    if "output" not in case:
        raise ValueError(f"{where}: a mapping with 'input' and 'output' is wanted, not {short(case)}")
    return Case(json.dumps(arguments(case.get("input"), where)), json.dumps(returns(case["output"])), name)


def name_of(value: Mapping[str, Any]) -> str | None:
    """The function's name; a method's of APPS's has its class before it."""
    name = next((value[key] for key in NAMES if value.get(key)), None)
    return None if name is None else str(name).rpartition(".")[2]


def metadata(value: object) -> Mapping[str, Any]:
    """LiveCodeBench's, which may hold the function's name."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def lines(case: Mapping[str, Any], key: str, where: str) -> str:
    value = case.get(key)
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} is a text, not {short(value)}")
    return value


def arguments(value: object, where: str) -> list[Any]:
    """A list of arguments, or LiveCodeBench's text with one of them in JSON on each line."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{where}: 'input' is a list of arguments, or JSON of one on each line, not {short(value)}")
    return [decoded(line, f"{where}, 'input'") for line in value.split("\n") if line.strip()]


def returns(value: Any) -> list[Any]:
    """What the function may return: the value, what it holds if it is a list of one (APPS), or as JSON if a text."""
    found = [value]
    if isinstance(value, list) and len(value) == 1:
        found.append(value[0])
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(value))
    return found


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
