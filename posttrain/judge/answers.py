r"""What a completion declares as its answer: one definition for rewards, data preparation and evaluation.

Whether it is right is not decided here but in `comparison`. Standard library only: lighteval's environment imports this
file too.
"""

import re

from posttrain.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE

BOXED = "\\boxed{"

MAX_ANSWER_CHARS = 1000
"""A longer block declares nothing: no gold is that long, and the time to read an answer grows with its length."""

_BETWEEN_BOXES = re.compile(r"(?:\\text\s*\{\s*(?:and|or)\s*\}|\\q?quad|\\[\]\[(),; ]|and|or|[\s,;$&])*")


def declared_answer(completion: str) -> str | None:
    r"""The content of the one <answer> block after the thoughts; if it holds a \boxed{}, the content of the last one.

    Boxes with nothing but commas or `and` between them are one list. None, which scores nothing, for
    - no block, or one that is never closed or empty: a number in the thoughts or in plain text is no declaration
    - a block inside the thoughts, such as a quoted question or an example of the form
    - two blocks: one answer is asked, and a second would be a second try
    - braces that do not match (`5}{6` would leave the box that math-verify reads)
    - more than MAX_ANSWER_CHARS characters

    A full stop, and a $ around it, are no part of an answer.
    """
    said = completion.rpartition(THINK_CLOSE)[2]
    if said.count(ANSWER_OPEN) != 1 or said.count(ANSWER_CLOSE) != 1:
        return None
    start, end = said.find(ANSWER_OPEN) + len(ANSWER_OPEN), said.find(ANSWER_CLOSE)
    if end < start or end - start > MAX_ANSWER_CHARS:
        return None
    block = said[start:end]
    answer = (last_boxed(block) or block).strip().rstrip(".")
    answer = (answer.strip("$") if answer[:1] == "$" == answer[-1:] else answer).strip().rstrip(".")
    return answer if answer and _braces_match(answer) else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces matched, and of those right before it; None if it is not closed."""
    found: list[str] = []
    end = len(text)
    while (start := text.rfind(BOXED, 0, end)) >= 0:
        close = _closing(text, start + len(BOXED))
        if close is None or close >= end or (found and not _BETWEEN_BOXES.fullmatch(text[close + 1 : end])):
            break
        found.insert(0, text[start + len(BOXED) : close])
        end = start
    return ", ".join(found) if found else None


def _closing(text: str, begin: int) -> int | None:
    """Where the brace closes that was opened before `begin`."""
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


def _braces_match(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0
