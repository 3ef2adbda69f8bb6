r"""What a completion declares as its answer: one definition for rewards, data preparation and evaluation.

Standard library only: lighteval's environment imports this file too.
"""

from stages.prompts import ANSWER_CLOSE, ANSWER_OPEN

BOXED = "\\boxed{"


def declared_answer(completion: str) -> str | None:
    r"""The content of the last closed <answer> block; if it holds a \boxed{}, the content of the last one.

    Numbers in the thoughts, text after the block and a block that is never closed do not count. None if nothing is
    declared, or if the block is empty.
    """
    end = completion.rfind(ANSWER_CLOSE)
    start = completion.rfind(ANSWER_OPEN, 0, end) if end >= 0 else -1
    if start < 0:
        return None
    block = completion[start + len(ANSWER_OPEN) : end]
    return (last_boxed(block) or block).strip().strip("$").strip() or None


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
