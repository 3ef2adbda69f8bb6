"""Verifiable rewards: a pure function from (completion, gold) to a score, one table of them.

A reward's name is its key in the `rewards` section of params.yaml, its metric `reward/<name>` and its function here.
"""

from collections.abc import Callable

from stages.rewards.accuracy import accuracy
from stages.rewards.form import format, tag_count

Score = Callable[[str, str], float]
"""(completion, gold) -> score, usually within [0, 1]."""

REWARDS: dict[str, Score] = {
    "accuracy": accuracy,
    "format": lambda completion, gold: format(completion),
    "tag_count": lambda completion, gold: tag_count(completion),
}


def scores(completion: str, gold: str) -> dict[str, float]:
    """The score of every reward for one completion."""
    return {name: score(completion, gold) for name, score in REWARDS.items()}


def total(scores: dict[str, float], weights: dict[str, float]) -> float:
    """The weighted sum; the tutorial's 1.0 * accuracy + 0.1 * format + 0.05 * tag_count."""
    return sum(weights[name] * score for name, score in scores.items())
