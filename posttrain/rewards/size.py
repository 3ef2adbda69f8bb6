"""Rewards for the size of a completion: its length in tokens, and how much of it is repetition."""

import math
import re
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from posttrain.rewards.completion import Completion, Score

# An ideograph, a CJK punctuation mark or a full-width character stands alone; what is left is words between them.
_CJK = r"\u3001-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U000323af"
_CHINESE_UNIT = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def length(group: Sequence[Completion]) -> list[Score]:
    """Short is good, compared with the other completions of the same problem; lengths are in tokens.

    lambda = 0.5 - (tokens - shortest) / (longest - shortest), from 0.5 for the shortest to -0.5 for the longest.
    A right completion scores lambda, a wrong one min(0, lambda): being brief never pays for being wrong.
    All 0.0 if all are equally long. None without a verdict; such a completion is neither shortest nor longest.

    Source: the length reward of Kimi k1.5, arXiv:2501.12599, and open-r1's `length`. Open-r1 compares all completions
    of a batch, so that a problem that needs long thoughts loses to an easy one; here, as in the paper, one problem's.
    It measures characters, and takes a gold that cannot be read for a right answer.
    """
    tokens = [completion.tokens for completion in group if completion.correct is not None]
    shortest, longest = min(tokens, default=0), max(tokens, default=0)

    def score(completion: Completion) -> Score:
        if completion.correct is None:
            return None
        if shortest == longest:
            return 0.0
        factor = 0.5 - (completion.tokens - shortest) / (longest - shortest)
        return factor if completion.correct else min(0.0, factor)

    return [score(completion) for completion in group]


def cosine(
    completion: Completion,
    min_value_wrong: float,
    max_value_wrong: float,
    min_value_correct: float,
    max_value_correct: float,
    max_len: int,
) -> Score:
    """Half a cosine wave over the length in tokens: brief if right, thorough if wrong.

    | verdict | at 0 tokens         | at max_len tokens and beyond |
    | right   | `max_value_correct` | `min_value_correct`          |
    | wrong   | `min_value_wrong`   | `max_value_wrong`            |
    | None    | None                | None                         |

    Half-way between them at max_len / 2. With values ordered as their names say, a right answer earns less the longer
    it is, and a wrong one is punished most when it is short, for giving up early.

    Source: the cosine reward of arXiv:2502.03373, where the four values are r_0^c, r_L^c, r_0^w, r_L^w, and open-r1's
    `cosine`. Open-r1 sets a wrong minimum of 0.0 above its maximum of -0.5 in its configuration, which punishes long
    wrong answers most, against its own description. Beyond max_len its wave rises again, back to the full value at
    2 max_len; here it stays. It measures characters, and gives 1.0 for a gold that cannot be read. The paper's extra
    penalty at max_len is left to `soft_overlong_punishment`.
    """
    if completion.correct is None:
        return None
    at_zero, at_max = (
        (max_value_correct, min_value_correct) if completion.correct else (min_value_wrong, max_value_wrong)
    )
    progress = min(1.0, completion.tokens / max_len)
    share = (1.0 + math.cos(math.pi * progress)) / 2.0
    return share * at_zero + (1.0 - share) * at_max


def repetition_penalty(
    completion: Completion, ngram_size: int, max_penalty: float, language: Literal["en", "zh"]
) -> float:
    """`max_penalty`, which is at most 0, times the share of n-grams that repeat an earlier one: 1 - different / all.

    0.0 for a text of fewer than `ngram_size` words. The words are, in lower case,
    - `en`: what stands between blanks
    - `zh`: each Chinese character and CJK punctuation mark, and what stands between these and blanks (`x`, `=`, `2`).
      A Chinese word has about two characters, so an n-gram of words is one of about 2n characters.

    Time and memory grow with the length of the text times `ngram_size`.

    Source: open-r1's `repetition_penalty`, after arXiv:2502.03373, whose code punishes wrong answers only; open-r1 and
    this punish all. For `zh` open-r1 finds words by jieba, which is no dependency here and whose dictionary would
    decide the score; besides, its configuration never passes the language on.
    """
    text = completion.text.lower()
    words = _CHINESE_UNIT.findall(text) if language == "zh" else text.split()
    total = len(words) - ngram_size + 1
    if total <= 0:
        return 0.0
    different = len(set(zip(*(islice(words, start, None) for start in range(ngram_size)), strict=False)))
    if different == total:
        return 0.0  # not -0.0, which the product would be
    return max_penalty * (total - different) / total


def soft_overlong_punishment(completion: Completion, max_completion_len: int, soft_punish_cache: int) -> float:
    """0.0 up to max_completion_len - soft_punish_cache tokens, from there straight down to -1.0 at max_completion_len.

    -1.0 beyond. With `soft_punish_cache` 0 it is a step: 0.0 up to and at max_completion_len, -1.0 beyond; where
    sampling itself stops at max_completion_len, nothing is then ever punished.

    Source: equation 13 of DAPO, arXiv:2503.14476, and open-r1's `soft_overlong_punishment`, which scores the same but
    describes `soft_punish_cache` as a minimum length. It is the width of the slope.
    """
    tolerated = max_completion_len - soft_punish_cache
    if completion.tokens <= tolerated:
        return 0.0
    if completion.tokens > max_completion_len:
        return -1.0
    return (tolerated - completion.tokens) / soft_punish_cache
