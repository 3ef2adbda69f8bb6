"""Does the declared program solve the problem? Decided by running it on the problem's test cases."""

import json
import re
from typing import NamedTuple

from posttrain.errors import InputError
from posttrain.paths import PREPARED
from posttrain.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from posttrain.rewards.cases import LANGUAGE, Case, read_cases
from posttrain.rewards.completion import Completion, Score
from posttrain.rewards.sandbox import Limits, isolation, run_program

PYTHON = re.compile(r"py(thon)?(3(\.\d+)?)?", re.IGNORECASE)
"""What models call the language."""

IMPORTS = "\n".join(
    f"from {module} import *"
    for module in ("math", "string", "re", "collections", "heapq", "bisect", "itertools", "functools", "typing")
)

THREADS = 16
FILE_MIB = 16
OUTPUT_MARGIN_KIB = 64
"""How much more than the expected output a program may print before it is ended."""


def code(completion: Completion, column: str, language: str, timeout_s: float, memory_mib: int) -> Score:
    """The share of test cases that the completion's program passes; 0.0 if it holds no program.

    The test cases are in `completion.row[column]`, see `read_cases`. A case is passed if the program exits with 0 and
    prints the expected lines, or its function returns the expected value. Each case is a process of its own in
    `posttrain.rewards.sandbox`, one after another, with Python's standard library and no more.

    Time: a case times out after `timeout_s` seconds of CPU, or 3 timeout_s + 1 seconds in all. The program then runs no
    further case, and those count as failed. So one completion takes at most its number of cases times 3 timeout_s + 1
    seconds, and a program that never ends takes that once.

    Source: open-r1's `code`. Theirs compares only as many lines as the shorter output has, so that a program that
    prints only the first lines, or further ones, passes; gives 0.0 when its sandbox fails; and needs E2B or Morph.
    Here a fault of the data raises InputError, and no isolation or a sandbox that does not start raises too.
    """
    if language != LANGUAGE:
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
    program = last_block(answer_part(completion.text))
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
        if case.function is None:
            outcome = run_program(program, case.input, limits)
        else:
            outcome = run_program(calling(program), f"[{json.dumps(case.function)}, {case.input}]", limits)
        passed += outcome.status == "ok" and right(case, outcome.stdout)
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


def last_block(text: str) -> str | None:
    """The program: the last closed block that is marked as Python, else the last without a language; None if neither.

    A fence is a line of its own, at any indent, which its block's lines lose. One pass over the lines: a regular
    expression takes quadratic time on a completion that repeats the opening fence.
    """
    marked = bare = None
    opened: Fence | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = Fence.read(line)
        if opened is None:
            opened, lines = fence, []
        elif fence is not None and not fence.language and fence.ticks >= opened.ticks:
            if PYTHON.fullmatch(opened.language):
                marked = "\n".join(lines)
            elif not opened.language:
                bare = "\n".join(lines)
            opened = None
        else:
            lines.append(line[min(opened.indent, len(line) - len(line.lstrip())) :])
    return bare if marked is None else marked


class Fence(NamedTuple):
    """A line that opens or closes a block: ```python, ```Python, ```py title="x", or bare."""

    indent: int
    ticks: int
    language: str

    @staticmethod
    def read(line: str) -> "Fence | None":
        told = line.strip()
        words = told.lstrip("`")
        if len(told) - len(words) < 3 or "`" in words:
            return None
        return Fence(len(line) - len(line.lstrip()), len(told) - len(words), (words.split() or [""])[0])


def right(case: Case, printed: str) -> bool:
    """Did the program print what the case asks for, or the function return it?"""
    if case.function is None:
        return same_output(printed, case.output)
    try:
        return json.loads(printed.rpartition("\n")[2]) in json.loads(case.output)
    except (ValueError, RecursionError):  # it printed nothing, or no JSON
        return False


def calling(program: str) -> str:
    """A program that calls a function of `program`, or a method of its class Solution, and prints what that returns.

    Its stdin is the function's name and arguments as JSON. What `program` prints goes to stderr, and it finds the names
    that LeetCode and LiveCodeBench import for it.
    """
    return f"""
import io, json, sys
out, sys.stdout = sys.stdout, sys.stderr
name, arguments = json.loads(sys.stdin.read())
sys.stdin = io.StringIO()
space = {{"__name__": "solution"}}
exec({IMPORTS!r}, space)
exec(compile({program!r}, "<solution>", "exec"), space)
function = getattr(space["Solution"](), name) if hasattr(space.get("Solution"), name) else space[name]
value = json.dumps(function(*arguments), default=list)
out.write("\\n" + value)
"""


def same_output(printed: str, expected: str) -> bool:
    """The same lines, spaces at their ends and empty lines at the end of the output left aside."""
    return _lines(printed) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
