"""Is the declared answer equal to the gold? Decided by math-verify."""

from functools import lru_cache
from typing import Any

from stages.answers import declared_answer

MAX_ANSWER_CHARS = 200
"""A longer declared answer is wrong: no gold is that long, and parsing time grows with the length."""


def accuracy(completion: str, gold: str) -> float:
    """1.0 if the completion declares an answer equal to the gold, else 0.0.

    Raises: ValueError if math-verify cannot read the gold; the prepare stage leaves such rows out.
    """
    answer = declared_answer(completion)
    if answer is None or len(answer) > MAX_ANSWER_CHARS:
        return 0.0
    return float(answers_agree(gold, answer))


@lru_cache(maxsize=65536)
def answers_agree(gold: str, answer: str) -> bool:
    """math-verify's verdict. It is not symmetric: the gold comes first.

    Completions of a group often declare the same answer, so each (gold, answer) pair is decided once.
    """
    from math_verify import verify

    parsed_gold = parse_gold(gold)
    if not parsed_gold:
        raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
    return bool(verify(list(parsed_gold), _parse(answer)))


@lru_cache(maxsize=65536)
def parse_gold(gold: str) -> tuple[Any, ...]:
    """What math-verify reads in a gold answer; empty if it reads nothing."""
    return tuple(_parse(gold))


def _parse(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    return list(parse(f"\\boxed{{{answer}}}", extraction_config=[config], fallback_mode="no_fallback"))
