"""Rewards for the form of a completion: tags, steps and fences. Whether the answer is right is no matter here."""

import re

from posttrain.prompts import TAGS, THINK_CLOSE, THINK_OPEN
from posttrain.rewards.completion import Completion

_TAG = re.compile(f"({'|'.join(map(re.escape, TAGS))})")
_LIST_ITEM = re.compile(r"^[ \t]*(?:\d+\.|[-*])(?!\S)", re.MULTILINE)
_ORDERING_WORD = re.compile(r"\bStep \d+:|\b(?:First|Second|Next|Finally),")
_FENCE_LINE = re.compile(r"^```(.*)$", re.MULTILINE)


def format(completion: Completion) -> float:
    r"""1.0 for one <think> block, then one <answer> block, neither empty, and nothing else; otherwise 0.0.

    Blanks and line ends may stand around the blocks or be missing.

    Source: open-r1's `format`. Its pattern ends at the end of any line, so that text after `</answer>\n`, even a second
    answer, passes; here nothing may follow. It demands each tag on a line of its own; here `<think>a</think>` is good
    form, for the tags alone tell where the answer is. It passes blocks that hold another tag; here each tag is once.
    """
    return float(_blocks(completion.text) is not None)


def tag_count(completion: Completion) -> float:
    """A quarter for each of the four tags that is there exactly once, in whatever order.

    Source: open-r1's `tag_count`. It counts a tag together with the line ends that it wants around it, so that a tag
    written twice passes for one as long as only one has them, and a completion on one line has none; here the tag alone
    is counted.
    """
    return sum(completion.text.count(tag) == 1 for tag in TAGS) / len(TAGS)


def reasoning_steps(completion: Completion, steps: int) -> float:
    """The number of steps that the thoughts show, as a share of `steps`, at most 1.0.

    A step is a line that begins with `1.`, `-` or `*` and a blank, indented or not, or one of the ordering words
    `Step 1:`, `First,`, `Second,`, `Next,`, `Finally,`, each different one once. The thoughts are the text between the
    first <think> and the next </think>; without such a block there are none, and the score is 0.0.

    Source: open-r1's `reasoning_steps`. It finds a number only at the start of the text, where <think> should stand,
    and a bullet only after a line end; here both count at the start of each line. `First,First,First,` is its full
    score; here it is one step. It counts steps in the answer too, and takes `-5`, `**` and `---` for bullets. Its
    divisor, always 3, is `steps`.
    """
    _, _, after = completion.text.partition(THINK_OPEN)
    thoughts, closed, _ = after.partition(THINK_CLOSE)
    if not closed:
        return 0.0
    items = sum(1 for _ in _LIST_ITEM.finditer(thoughts))
    words = {match[0] for match in _ORDERING_WORD.finditer(thoughts)}
    return min(1.0, (items + len(words)) / steps)


def code_format(completion: Completion, language: str) -> float:
    """1.0 for good form whose answer holds exactly one fenced block, of this language and not blank; otherwise 0.0.

    The fences are lines of their own: three backticks and the language, spelled as in `language`; then three backticks.
    Prose may stand around the block.

    Source: open-r1's `code_format`. It shares the holes of its `format`; reads the language as a regular expression and
    only as a prefix, so that `c++` is met by a block in C and `python` by `python3`; and is met by any number of
    blocks, of which it then runs the last. A data column `language` does not replace the parameter here.
    """
    blocks = _blocks(completion.text)
    if blocks is None:
        return 0.0
    _, answer = blocks
    pieces = _FENCE_LINE.split(answer, maxsplit=3)
    if len(pieces) != 5:
        return 0.0
    _, opening, code, closing, _ = pieces
    return float(opening.rstrip() == language and not closing.strip() and bool(code.strip()))


def _blocks(text: str) -> tuple[str, str] | None:
    """Thoughts and answer of a text in good form, otherwise None."""
    pieces = _TAG.split(text, maxsplit=len(TAGS))
    if tuple(pieces[1::2]) != TAGS:
        return None
    before, thoughts, between, answer, after = pieces[::2]  # a fifth tag is in `after`, which has to be blank
    if before.strip() or between.strip() or after.strip() or not thoughts.strip() or not answer.strip():
        return None
    return thoughts, answer
