"""Rewards for size as tables: what a length and what a repetition earn, worked out by hand."""

import math
import random
import time
from typing import Literal

import pytest

from posttrain.rewards.completion import Completion
from posttrain.rewards.size import cosine, length, repetition_penalty, soft_overlong_punishment


def group(*members: tuple[int, bool | None]) -> list[Completion]:
    return [Completion("", tokens=tokens, correct=correct) for tokens, correct in members]


@pytest.mark.parametrize(
    ("completions", "scores"),
    [
        # 0.5 - 0/20, 0.5 - 10/20, 0.5 - 20/20
        (group((10, True), (20, True), (30, True)), [0.5, 0.0, -0.5]),
        # The same, none above 0.
        (group((10, False), (20, False), (30, False)), [0.0, 0.0, -0.5]),
        # From 10 to 50: 0.5 - 0/40 -> 0, 0.5 - 5/40, 0.5 - 10/40, 0.5 - 30/40, 0.5 - 40/40
        (
            group((10, False), (15, True), (20, True), (40, False), (50, True)),
            [0.0, 0.375, 0.25, -0.25, -0.5],
        ),
        # In whatever order, and 0 tokens are a length: 0.5 - 8/8, 0.5 - 2/8, 0.5 - 0/8
        (group((8, True), (2, True), (0, True)), [-0.5, 0.25, 0.5]),
        # The wrong ones are among the shortest and the longest: 0.5 - 10/20
        (group((10, False), (20, True), (30, False)), [0.0, 0.0, -0.5]),
        # All equal.
        (group((7, True), (7, False), (7, True)), [0.0, 0.0, 0.0]),
        (group((7, True)), [0.0]),
        # No verdict: 1 and 90 are neither shortest nor longest.
        (group((1, None), (10, True), (20, True), (90, None)), [None, 0.5, -0.5, None]),
        (group((10, True), (90, None)), [0.0, None]),
        (group((10, True), (10, False), (90, None)), [0.0, 0.0, None]),
        (group((10, None), (20, None)), [None, None]),
        ([], []),
    ],
)
def test_length(completions: list[Completion], scores: list[float | None]) -> None:
    assert length(completions) == scores


def test_length_compares_within_a_group() -> None:
    easy, hard = group((10, True), (20, True)), group((110, True), (210, True))
    assert length(easy) + length(hard) == [0.5, -0.5, 0.5, -0.5]
    # Open-r1 compares the batch, where whoever needs long thoughts loses: 0.5 - 10/200, 0.5 - 100/200.
    assert length(easy + hard) == [0.5, 0.45, 0.0, -0.5]


def test_length_is_in_tokens() -> None:
    few_tokens = Completion("a" * 1000, tokens=1, correct=True)
    many_tokens = Completion("a", tokens=1000, correct=True)
    assert length([few_tokens, many_tokens]) == [0.5, -0.5]


# cos(60°) = 1/2, so that a third of the way has (1 + 1/2) / 2 = 3/4 of the start; two thirds 1/4; half 1/2.
@pytest.mark.parametrize(
    ("tokens", "right", "wrong"),
    [
        (0, 2.0, -10.0),
        (100, 1.75, -7.5),  # 3/4 x 2 + 1/4 x 1; 3/4 x -10 + 1/4 x 0
        (150, 1.5, -5.0),
        (200, 1.25, -2.5),
        (300, 1.0, 0.0),
        (301, 1.0, 0.0),
        (450, 1.0, 0.0),  # open-r1's wave is half-way up again: 1.5
        (600, 1.0, 0.0),  # and at the top: 2
        (10**9, 1.0, 0.0),
    ],
)
def test_cosine_with_the_papers_values(tokens: int, right: float, wrong: float) -> None:
    def score(correct: bool | None) -> float | None:
        return cosine(
            Completion("", tokens=tokens, correct=correct),
            min_value_wrong=-10.0,
            max_value_wrong=0.0,
            min_value_correct=1.0,
            max_value_correct=2.0,
            max_len=300,
        )

    assert score(True) == pytest.approx(right, abs=1e-12)
    assert score(False) == pytest.approx(wrong, abs=1e-12)
    assert score(None) is None


def test_cosine_prefers_short_right_to_long_right_to_long_wrong_to_short_wrong() -> None:
    def score(tokens: int, correct: bool) -> float:
        score = cosine(Completion("", tokens=tokens, correct=correct), -1.0, -0.5, 0.5, 1.0, 1000)
        assert score is not None
        return score

    right, wrong = ([score(tokens, correct) for tokens in range(0, 1001, 50)] for correct in (True, False))
    assert right == sorted(right, reverse=True)
    assert wrong == sorted(wrong)
    # The four values exactly, without a rounding.
    assert (right[0], right[-1], wrong[-1], wrong[0]) == (1.0, 0.5, -0.5, -1.0)


def test_cosine_is_in_tokens() -> None:
    assert cosine(Completion("a" * 1000, tokens=0, correct=True), -1.0, -0.5, 0.5, 1.0, 1000) == 1.0
    assert cosine(Completion("", tokens=1000, correct=True), -1.0, -0.5, 0.5, 1.0, 1000) == 0.5


@pytest.mark.parametrize(
    ("text", "ngram_size", "max_penalty", "language", "score"),
    [
        # ab bc: 2 different of 2
        ("a b c", 2, -1.0, "en", 0.0),
        # ab ba ab: 2 of 3
        ("a b a b", 2, -1.0, "en", -1 / 3),
        # aa aa aa: 1 of 3
        ("a a a a", 2, -1.0, "en", -2 / 3),
        # abc bca cab abc: 3 of 4
        ("a b c a b c", 3, -1.0, "en", -1 / 4),
        # a a b: 2 of 3, case and blanks are no difference
        ("a A\t\n b", 1, -1.0, "en", -1 / 3),
        # the, cat. and cat: punctuation is part of a word, so 3 of 3
        ("the cat. cat", 1, -1.0, "en", 0.0),
        # `ab c` and `a bc` are not the same bigram: ab-c, c-a, a-bc
        ("ab c a bc", 2, -1.0, "en", 0.0),
        ("a a a a", 2, -0.3, "en", -0.3 * 2 / 3),
        ("a a a a", 2, -3.0, "en", -2.0),
        ("a a a a", 2, 0.0, "en", 0.0),
        # As many words as an n-gram has: 1 of 1; fewer: none
        ("a a a a", 4, -1.0, "en", 0.0),
        ("a a a a", 5, -1.0, "en", 0.0),
        ("a a a a", 1000, -1.0, "en", 0.0),
        ("", 1, -1.0, "en", 0.0),
        (" \n\t", 1, -1.0, "en", 0.0),
        ("\x00 \x00 \ud800 \ud800", 1, -1.0, "en", -1 / 2),
        # Chinese without blanks is one word in English, and six characters in Chinese:
        # 解方程 方程解 程解方 解方程: 3 of 4
        ("解方程解方程", 3, -1.0, "en", 0.0),
        ("解方程解方程", 3, -1.0, "zh", -1 / 4),
        # 解 方 解: 2 of 3, blanks between characters or not
        ("解 方\n解", 1, -1.0, "zh", -1 / 3),
        # x = 2 ， x = 2 ，: x= =2 2， ，x x= =2 2，: 4 of 7
        ("x = 2，x = 2，", 2, -1.0, "zh", -3 / 7),
        # 设 x=2 。 设 x=2 。: 设x= x=。 。设 设x= x=。: 3 of 5
        ("设x=2。设X=2。", 2, -1.0, "zh", -2 / 5),
        # Chinese only in part, so that repeated Latin text is not overlooked: aa aa a解
        ("a a a 解", 2, -1.0, "zh", -1 / 3),
        # Rare characters, the second of four bytes: 2 of 3
        ("㐀㐀解", 1, -1.0, "zh", -1 / 3),
        ("𠮷𠮷解", 1, -1.0, "zh", -1 / 3),
        ("解\ud800\ud800解", 1, -1.0, "zh", -1 / 3),
        ("解", 2, -1.0, "zh", 0.0),
        ("", 1, -1.0, "zh", 0.0),
        ("\u3000\n", 1, -1.0, "zh", 0.0),  # an ideographic blank is a blank
    ],
)
def test_repetition_penalty(
    text: str, ngram_size: int, max_penalty: float, language: Literal["en", "zh"], score: float
) -> None:
    penalty = repetition_penalty(Completion(text), ngram_size, max_penalty, language)
    assert penalty == pytest.approx(score, abs=1e-12)
    assert penalty != 0.0 or math.copysign(1.0, penalty) == 1.0, "-0.0, as open-r1's"


@pytest.mark.parametrize("correct", [True, False, None])
def test_repetition_and_overlength_need_no_verdict(correct: bool | None) -> None:
    completion = Completion("a a a a", tokens=90, correct=correct)
    assert repetition_penalty(completion, 2, -1.5, "en") == -1.0
    assert soft_overlong_punishment(completion, 100, 20) == -0.5


@pytest.mark.parametrize(
    ("tokens", "max_completion_len", "soft_punish_cache", "score"),
    [
        (0, 100, 20, 0.0),
        (80, 100, 20, 0.0),
        (81, 100, 20, -0.05),  # (80 - 81) / 20
        (90, 100, 20, -0.5),
        (99, 100, 20, -0.95),
        (100, 100, 20, -1.0),
        (101, 100, 20, -1.0),
        (10**9, 100, 20, -1.0),
        # DAPO's own: 20480 with a cache of 4096
        (16384, 20480, 4096, 0.0),
        (17408, 20480, 4096, -0.25),  # (16384 - 17408) / 4096 = -1024 / 4096
        (20480, 20480, 4096, -1.0),
        # No slope: a step.
        (0, 100, 0, 0.0),
        (99, 100, 0, 0.0),
        (100, 100, 0, 0.0),
        (101, 100, 0, -1.0),
        # Nothing but slope: (0 - 25) / 100
        (0, 100, 100, 0.0),
        (25, 100, 100, -0.25),
        (100, 100, 100, -1.0),
    ],
)
def test_soft_overlong_punishment(tokens: int, max_completion_len: int, soft_punish_cache: int, score: float) -> None:
    completion = Completion("a" * 500, tokens=tokens)
    assert soft_overlong_punishment(completion, max_completion_len, soft_punish_cache) == score


SIZE = 400_000
"""Long enough that time that grows with the square of it takes minutes."""

HOSTILE = {
    "one word": "a",
    "blanks": " ",
    "one word again and again": "a ",
    "null bytes": "\x00",
    "lone surrogates": "\ud800 ",
    "tags": "<think>",
    "letters that grow in lower case": "İ",
    "sigmas, whose lower case depends on what is around": "Σ.",
    "Chinese": "解方程，",
    "Chinese between words": "解x",
}


def check_penalty_and_time(text: str) -> None:
    completion = Completion(text, tokens=len(text))
    started = time.process_time()
    assert -1.0 <= repetition_penalty(completion, 3, -1.0, "en") <= 0.0
    assert -1.0 <= repetition_penalty(completion, 3, -1.0, "zh") <= 0.0
    assert time.process_time() - started < 1.5


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_longer_than_its_length(name: str) -> None:
    check_penalty_and_time(HOSTILE[name] * (SIZE // len(HOSTILE[name])))


def test_text_without_repetition_takes_no_longer_than_its_length() -> None:
    check_penalty_and_time(" ".join(map(str, range(SIZE // 7))))
    characters = random.Random(0).choices([chr(code) for code in range(0x4E00, 0xA000)], k=SIZE)
    check_penalty_and_time("".join(characters))
