r"""What a completion declares as its answer, and whether that is an answer: one definition for rewards, data
preparation and evaluation.

Equality is not decided here but by math-verify, which reads generously: `5 6` as 11, `x = 6 = 5` as 5, `21+46` as 67.
Where a number is asked, `is_evaluated` therefore demands one. Standard library only: lighteval's environment imports
this file too.
"""

import re

from posttrain.judge.numbers import POWER_OF_TEN, number
from posttrain.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE

BOXED = "\\boxed{"

MAX_ANSWER_CHARS = 1000
"""A longer block declares nothing: no gold is that long, and the time to read an answer grows with its length."""


def declared_answer(completion: str) -> str | None:
    r"""The content of the one <answer> block after the thoughts; if it holds a \boxed{}, the content of the last one.

    None, which scores nothing, for
    - no block, or one that is never closed or empty: a number in the thoughts or in plain text is no declaration
    - a block inside the thoughts, such as a quoted question or an example of the form
    - two blocks: one answer is asked, and a second would be a second try
    - braces that do not match (`5}{6` would leave the box that math-verify reads)
    - more than MAX_ANSWER_CHARS characters

    A full stop, a $ around it and the commas of `x = 40,000`, where math-verify reads a list, are no part of an answer.
    """
    said = completion.rpartition(THINK_CLOSE)[2]
    if said.count(ANSWER_OPEN) != 1 or said.count(ANSWER_CLOSE) != 1:
        return None
    start, end = said.find(ANSWER_OPEN) + len(ANSWER_OPEN), said.find(ANSWER_CLOSE)
    if end < start or end - start > MAX_ANSWER_CHARS:
        return None
    block = said[start:end]
    answer = (last_boxed(block) or block).strip().rstrip(".").strip("$").strip().rstrip(".")
    if not answer or not _braces_match(answer):
        return None
    return answer.replace(",", "") if number(answer) else answer


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces matched; None if there is none or it is not closed."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    depth = 1
    for position in range(start + len(BOXED), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len(BOXED) : position]
    return None


def _braces_match(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


# ---------------------------------------------------------------------------------------------------------------------
# Where a number is asked

# Words and signs beside a number that calculate nothing: units, percent, degrees, spaces of LaTeX.
_BESIDE = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm)\s*\{[^{}]*\}(?:\^\{?[23]\}?)?|\^\{?\\?circ\}?|\\(?:degree|circ|%|\$|[dl]?dots)"
    r"|\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[;: ]|[%$°]"
)
_UNITS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]+\.?(?:\^\{?[23]\}?)?(?:\s*/\s*[a-zA-Z]+(?:\^\{?[23]\}?)?)?")
_NAME = re.compile(r"(?:\\?[a-zA-Z]+(?:_\{?\w+\}?)?'*(?:\(\w+\))?)?")
_WRAPPED = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|textrm|boldsymbol|bm)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
    r"|(?:\\left)?\(([^()]*?)(?:\\right)?\)|(?:\\left)?\[([^\[\]]*?)(?:\\right)?\]|\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
    re.DOTALL,
)
_OPERATION = re.compile(r"[-+*/^!×·÷√|]|\\[a-zA-Z]+|[0-9]\s+[0-9]")


def is_evaluated(answer: str, gold: str) -> bool:
    r"""False if the gold is a number and the answer is something that would still have to be calculated or chosen.

    A number is an integer, a decimal or a fraction, after `name =` or not, with a unit or not. The answer may then be
    one number, with a sign, in scientific notation, or a fraction where the gold is no integer. Not so `21+46`,
    `10^2`, `\sqrt{4}`, `3!`, `10/2` for 5, two numbers side by side, and `6 = 5` or `2x = 10`, where more than a name
    is equated. For any other gold (a root, a set, a formula) the form of the answer is left to math-verify.
    """
    value, answer_value = _value(gold), _value(answer)
    asked = None if value is None else number(value)
    if asked is None:
        return True
    if answer_value is None:
        return False
    rest = POWER_OF_TEN.sub("", _UNITS.sub(" ", answer_value).strip())
    found = number(rest)
    if found is not None and found.form != "plain":
        return not asked.integer
    return not _OPERATION.search(rest[1:] if rest[:1] in ("+", "-") else rest)


def _value(text: str) -> str | None:
    """What is equated with a name, or the whole text; without signs beside it. None if more than a name is equated."""
    text = text.replace("−", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "")
    left, equals, right = (_bare(part) for part in _BESIDE.sub(" ", _bare(text)).partition("="))
    if not equals:
        return left
    if "=" in right:
        return None
    if _NAME.fullmatch(left):
        return right
    return left if _NAME.fullmatch(right) else None


def _bare(text: str) -> str:
    """Without what encloses or ends it."""
    while True:
        shorter = text.strip().removeprefix("\\approx").rstrip(".,\\ ")
        wrapped = _WRAPPED.fullmatch(shorter)
        shorter = wrapped[1] or wrapped[2] or wrapped[3] or wrapped[4] if wrapped else shorter
        if shorter == text:
            return text
        text = shorter
