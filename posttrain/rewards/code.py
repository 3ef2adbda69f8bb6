"""Does the declared program solve the problem? Decided by running it on the problem's test cases."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.errors import InputError
from posttrain.paths import PREPARED
from posttrain.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from posttrain.rewards.completion import Completion, Score
from posttrain.rewards.sandbox import Limits, isolation, run_program

THREADS = 16
FILE_MIB = 16
OUTPUT_MARGIN_KIB = 64
"""How much more than the expected output a program may print before it is ended."""


@dataclass(frozen=True)
class Case:
    """One run: what the program reads on stdin and has to print on stdout."""

    input: str
    output: str


def code(completion: Completion, column: str, language: str, timeout_s: float, memory_mib: int) -> Score:
    """The share of test cases that the completion's program passes; 0.0 if it holds no program.

    The test cases are in `completion.row[column]`, see `read_cases`. A case is passed if the program exits with 0 and
    prints the expected lines. Each case is a process of its own in `posttrain.rewards.sandbox`, one after another, with
    Python's standard library and no more.

    Time: a case times out after `timeout_s` seconds of CPU, or 3 timeout_s + 1 seconds in all. The program then runs no
    further case, and those count as failed. So one completion takes at most its number of cases times 3 timeout_s + 1
    seconds, and a program that never ends takes that once.

    Source: open-r1's `code`. Theirs compares only as many lines as the shorter output has, so that a program that
    prints only the first lines, or further ones, passes; gives 0.0 when its sandbox fails; and needs E2B or Morph.
    Here a fault of the data raises InputError, and no isolation or a sandbox that does not start raises too.
    """
    if language != "python":
        raise ValueError(f"the reward code runs python, not {language!r}")
    isolation()  # a machine without it says so on the first completion, not on the first that holds a program
    try:
        cases = read_cases(completion.row, column, language)
    except ValueError as error:
        raise InputError(
            f"{PREPARED}, problem {str(completion.row.get('problem', ''))[:60]!r}",
            got=str(error),
            wanted="test cases in the form that docs/rewards.md shows",
            do="mend the data, or name another column in rewards.code.column and prepare.columns.keep",
        ) from None
    program = last_block(answer_part(completion.text), language)
    if program is None:
        return 0.0
    passed = 0
    for case in cases:
        limits = Limits(
            timeout_s=timeout_s,
            memory_mib=memory_mib,
            threads=THREADS,
            file_mib=FILE_MIB,
            output_kib=len(case.output.encode(errors="replace")) // 1024 + OUTPUT_MARGIN_KIB,
        )
        outcome = run_program(program, case.input, limits)
        passed += outcome.status == "ok" and same_output(outcome.stdout, case.output)
        if outcome.status == "timeout":
            break
    return passed / len(cases)


def answer_part(text: str) -> str:
    """Where the program is looked for: the last closed <answer> block, or else what follows the thoughts.

    Thoughts that are never closed hold no answer. A text without any tag is an answer as a whole.
    """
    end = text.rfind(ANSWER_CLOSE)
    start = text.rfind(ANSWER_OPEN, 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len(ANSWER_OPEN) : end]
    rest = text.rpartition(THINK_CLOSE)[2]
    return "" if THINK_OPEN in rest else rest


def last_block(text: str, language: str) -> str | None:
    """The content of the last closed ```language block; None if there is none.

    A fence is a line of its own, so one within a string of the program ends nothing. One pass over the lines: a regular
    expression takes quadratic time on a completion that repeats the opening fence.
    """
    block: str | None = None
    lines: list[str] | None = None
    for line in text.split("\n"):
        fence = line.rstrip()
        if lines is None:
            lines = [] if fence == f"```{language}" else None
        elif fence == "```":
            block, lines = "\n".join(lines), None
        else:
            lines.append(line)
    return block


def same_output(printed: str, expected: str) -> bool:
    """The same lines, spaces at their ends and empty lines at the end of the output left aside."""
    return _lines(printed) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def read_cases(row: Mapping[str, Any], column: str, language: str) -> list[Case]:
    """Read `row[column]`: a list of {"input", "output"}, or {"language", "test_cases": that list}, or either as JSON.

    The mapping is the form of open-r1's data, where each case also has "type": "stdin_stdout".

    Raises: ValueError, which names what is wrong.
    """
    if column not in row:
        raise ValueError(f"the row has no column {column!r} with test cases; it has {sorted(row)}")
    where, value = f"column {column!r}", row[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: a text that is no JSON: {error}") from None
    if isinstance(value, Mapping):
        if value.get("language", language) != language:
            raise ValueError(f"{where}: test cases for {value['language']!r}, while the reward runs {language!r}")
        where, value = f"{where}, key 'test_cases'", value.get("test_cases")
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: a list of at least one test case is wanted, not {_short(value)}")
    return [_case(case, f"{where}, case {index}") for index, case in enumerate(value)]


def _case(case: object, where: str) -> Case:
    if not isinstance(case, Mapping):
        raise ValueError(f"{where}: a mapping with 'input' and 'output' is wanted, not {_short(case)}")
    kind = case.get("type", "stdin_stdout")
    if kind != "stdin_stdout":
        raise ValueError(f"{where}: its type is {kind!r}; only 'stdin_stdout' is known")
    for key in ("input", "output"):
        if not isinstance(case.get(key), str):
            raise ValueError(f"{where}: {key!r} is a text, not {_short(case.get(key))}")
    return Case(input=case["input"], output=case["output"])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
