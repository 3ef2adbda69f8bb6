"""maj@k: is the answer that most completions of a problem give the right one?"""

from collections.abc import Sequence
from itertools import combinations

from posttrain.judge.verifier import Verifier

Answers = Sequence[str | None]


def majorities(answers_P: Sequence[Answers], correct_P: Sequence[Sequence[float]], verifier: Verifier) -> list[float]:
    """For each problem the expected value of a vote, ties drawn by lot.

    Answers that the judge holds equal are one candidate. A completion that declares nothing has no vote.
    Shapes: answers_P and correct_P (P, k).
    """
    wrong_P = [
        list(dict.fromkeys(answer for answer, right in zip(*row, strict=True) if answer is not None and not right))
        for row in zip(answers_P, correct_P, strict=True)
    ]
    pairs = [pair for wrong in wrong_P for pair in combinations(wrong, 2)]
    equal = {pair for pair, same in zip(pairs, verifier.agreements(pairs), strict=True) if same}
    return [
        _vote(answers, correct, _candidates(wrong, equal))
        for answers, correct, wrong in zip(answers_P, correct_P, wrong_P, strict=True)
    ]


def _candidates(wrong: list[str], equal: set[tuple[str, str]]) -> dict[str, str]:
    """The first of the answers that each answer is equal to."""
    first: dict[str, str] = {}
    for number, answer in enumerate(wrong):
        first[answer] = next((first[other] for other in wrong[:number] if (other, answer) in equal), answer)
    return first


def _vote(answers: Answers, correct: Sequence[float], candidates: dict[str, str]) -> float:
    right = sum(1 for value in correct if value)
    votes = [candidates[a] for a, value in zip(answers, correct, strict=True) if a is not None and not value]
    wrong = [votes.count(candidate) for candidate in set(votes)]
    if not right or right < max(wrong, default=0):
        return 0.0
    return 1 / (1 + wrong.count(right))
