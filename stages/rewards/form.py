"""Rewards for the form of a completion. They look at tags only, never at the content.

Source: open-r1's `format` and `tag_count`. Theirs accept text after the last tag, because `$` matches before any line
end there, and reject tags on the line of their content; these do neither.
"""

import re

from stages.prompts import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN

_WHOLE = re.compile(
    rf"\s*{THINK_OPEN}(?P<thoughts>.*?){THINK_CLOSE}\s*{ANSWER_OPEN}(?P<answer>.*?){ANSWER_CLOSE}\s*", re.DOTALL
)


def format(completion: str) -> float:
    """1.0 for one <think> block, then one <answer> block, neither empty, and nothing else; otherwise 0.0."""
    match = _WHOLE.fullmatch(completion)
    if match is None or any(completion.count(tag) != 1 for tag in TAGS):
        return 0.0
    return float(bool(match["thoughts"].strip() and match["answer"].strip()))


def tag_count(completion: str) -> float:
    """A quarter for each of the four tags that is there exactly once."""
    return sum(completion.count(tag) == 1 for tag in TAGS) / len(TAGS)
