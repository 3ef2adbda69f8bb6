r"""A trace as its source writes it: which part is thoughts, and what it concludes.

Recognised are text without tags, `<think>...</think>` with an `<answer>` block, with prose, or with nothing before the
closing tag (R1's template has written the opening one), and other projects' tags for the same (`SPELLINGS`). A
conclusion is the `<answer>` block, otherwise the last \boxed{} or `####` line: no phrase is guessed from.
"""

import re
from dataclasses import dataclass
from typing import Literal

from posttrain.judge.answers import last_boxed
from posttrain.prompts import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN

SPELLINGS = {
    "<|begin_of_thought|>": THINK_OPEN,  # OpenThoughts, Sky-T1
    "<|end_of_thought|>": THINK_CLOSE,
    "<|begin_of_solution|>": ANSWER_OPEN,
    "<|end_of_solution|>": ANSWER_CLOSE,
    "<｜begin▁of▁thinking｜>": THINK_OPEN,
    "<｜end▁of▁thinking｜>": THINK_CLOSE,
    "<thinking>": THINK_OPEN,
    "</thinking>": THINK_CLOSE,
    "<reasoning>": THINK_OPEN,  # GRPO tutorials
    "</reasoning>": THINK_CLOSE,
}
_SPELLED = re.compile("|".join(map(re.escape, SPELLINGS)))
_TURN_ENDS = re.compile(r"(?:\s*(?:<｜end▁of▁sentence｜>|<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>))+\s*\Z")
_HASHES = re.compile(r"^####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)

Fault = Literal["empty", "mis-tagged", "truncated"]


@dataclass(frozen=True)
class Trace:
    thoughts: str
    said: str
    """What follows the thoughts, without the tags of an answer; empty for a text without tags."""
    conclusion: str | None
    tagged: bool


def parse(text: str) -> Trace | Fault:
    """Thoughts and conclusion of a trace, or what is wrong with its form."""
    text = _TURN_ENDS.sub("", text[-200:]).join((text[:-200], "")) if "<" in text[-200:] else text
    text = _SPELLED.sub(lambda tag: SPELLINGS[tag[0]], text).strip()
    if not any(tag in text for tag in TAGS):
        return Trace(text, "", concluded(text), False) if text else "empty"
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    if opened > 1 or closed > 1:
        return "mis-tagged"
    if opened and not closed:
        return "truncated"
    before, thoughts, said = parts(text, bool(closed))
    if before.strip() or any(tag in thoughts for tag in TAGS):
        return "mis-tagged"
    answered = block(said)
    if isinstance(answered, str):
        return answered
    return whole(thoughts.strip(), *answered)


def parts(text: str, closed: bool) -> tuple[str, str, str]:
    """What stands before the thoughts, the thoughts, and what follows."""
    if not closed:  # an answer alone has tags
        thoughts, tag, rest = text.partition(ANSWER_OPEN)
        return "", thoughts, tag + rest
    head, _, said = text.partition(THINK_CLOSE)
    before, opening, thoughts = head.partition(THINK_OPEN)
    return (before, thoughts, said) if opening else ("", head, said)


def block(said: str) -> tuple[str, str | None] | Fault:
    """What is said, without the tags of an answer, and the content of the answer block, if there is one."""
    opened, closed = said.count(ANSWER_OPEN), said.count(ANSWER_CLOSE)
    if opened == closed == 0:
        return said.strip(), None
    if (opened, closed) == (1, 0):
        return "truncated"
    begin, end = said.find(ANSWER_OPEN), said.find(ANSWER_CLOSE)
    if (opened, closed) != (1, 1) or end < begin:
        return "mis-tagged"
    answer = said[begin + len(ANSWER_OPEN) : end].strip()
    return (said[:begin] + answer + said[end + len(ANSWER_CLOSE) :]).strip(), answer


def whole(thoughts: str, said: str, answer: str | None) -> Trace | Fault:
    if not thoughts or answer == "":
        return "empty"
    if answer is not None:
        return Trace(thoughts, said, concluded(answer) or answer, True)
    conclusion = concluded(said) or concluded(thoughts)
    return Trace(thoughts, said, conclusion, True) if said or conclusion else "truncated"


def concluded(text: str) -> str | None:
    """The last box, or the last `####` line."""
    if boxed := last_boxed(text):
        return boxed.strip() or None
    lines = _HASHES.findall(text)
    return str(lines[-1]) if lines else None
