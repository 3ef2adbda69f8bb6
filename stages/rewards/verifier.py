"""Is the declared answer equal to the gold? Decided by math-verify in processes that can be ended.

Each distinct (gold, answer) is decided once in a run, a gold is parsed once for all its answers of a batch, and plain
integers, which most answers are, are compared without math-verify. A verdict that takes too long is None: no score,
left out of the group's statistics, counted. It is never a 0, which would teach that a right answer is wrong.

Source: Math-Verify's issues 50, 55 and 65 and open-r1's 420 tell what happens without.
"""

import logging
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from stages.answers import is_evaluated
from stages.errors import InputError
from stages.rewards.pool import Lost, Pool, restart_clock

REMEMBERED = 2**18
"""Verdicts kept; the oldest go first."""

WINDOW = 512
"""Completions over which the share without a verdict is taken."""

_INTEGER = re.compile(r"(?:([a-z]) = )?(0|-?[1-9]\d{0,14})")

Pair = tuple[str, str]


class Verifier:
    """Verdicts by `workers` processes. `timeout_s`: CPU seconds for one answer."""

    def __init__(self, timeout_s: float, max_timeout_frac: float, workers: int) -> None:
        self.timeout_s, self.max_timeout_frac = timeout_s, max_timeout_frac
        self.pool = Pool(workers, preload=["math_verify"])
        self.timeouts = 0
        """Completions without a verdict so far."""
        self._known: OrderedDict[Pair, bool | None] = OrderedDict()
        self._recent: deque[bool] = deque(maxlen=WINDOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.pool.close()

    def verdicts(self, pairs: Sequence[tuple[str, str | None]]) -> list[bool | None]:
        """For each (gold, declared answer): True, False, or None for no verdict in time. No answer is False.

        Raises: ValueError if math-verify cannot read a gold, which the prepare stage leaves out.
        """
        asked = dict.fromkeys((gold, answer) for gold, answer in pairs if answer is not None)
        self._decide([pair for pair in asked if pair not in self._known])
        verdicts = [False if answer is None else self._known[gold, answer] for gold, answer in pairs]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return verdicts

    def count(self, verdicts: Iterable[bool | None]) -> int:
        """How many of them are None; they enter `timeouts`.

        Raises: InputError if more than `max_timeout_frac` of the last WINDOW completions had no verdict.
        """
        lost = [verdict is None for verdict in verdicts]
        self.timeouts += sum(lost)
        self._recent.extend(lost)
        if sum(self._recent) > self.max_timeout_frac * WINDOW:
            raise InputError(
                "params.yaml: verifier",
                got=f"no verdict within {self.timeout_s:g} CPU seconds on {sum(self._recent)} of the last {WINDOW} "
                "completions",
                wanted=f"at most a share of {self.max_timeout_frac:g} (verifier.max_timeout_frac)",
                do="look at the completions: is the model rewarded for monsters, are the golds monsters? "
                "Or raise verifier.timeout_s",
            )
        return sum(lost)

    def readable(self, golds: Sequence[str]) -> list[bool]:
        """For each gold: can math-verify read it, in time?"""
        unknown = [gold for gold in dict.fromkeys(golds) if not _INTEGER.fullmatch(gold)]
        found = dict(zip(unknown, self.pool.run(can_read, [(gold,) for gold in unknown], self.timeout_s), strict=True))
        return [found.get(gold, True) is True for gold in golds]

    def _decide(self, pairs: list[Pair]) -> None:
        """Enter the verdicts of new pairs. Answers to one gold that lost their worker together are asked one by one."""
        by_gold: dict[str, list[str]] = {}
        for gold, answer in pairs:
            verdict = quick_verdict(gold, answer)
            if verdict is None:
                by_gold.setdefault(gold, []).append(answer)
            else:
                self._known[gold, answer] = verdict
        alone: list[tuple[str, list[str], float]] = []
        for call, found in self._ask([(gold, answers, self.timeout_s) for gold, answers in by_gold.items()]):
            gold, answers, clock_s = call
            if isinstance(found, Lost) and len(answers) > 1:
                alone += [(gold, [answer], clock_s) for answer in answers]
            else:
                self._enter(gold, answers, found)
        for (gold, answers, _), found in self._ask(alone):
            self._enter(gold, answers, found)

    def _ask(self, calls: list[tuple[str, list[str], float]]) -> list[tuple[tuple[str, list[str], float], Any]]:
        return list(zip(calls, self.pool.run(decide, calls, self.timeout_s), strict=True)) if calls else []

    def _enter(self, gold: str, answers: list[str], found: Any) -> None:
        if isinstance(found, Lost) and found.why == "error":
            raise RuntimeError(f"math-verify failed on gold {gold!r} and answer {answers[0]!r}: {found.text}")
        if found == []:
            raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
        lost = isinstance(found, Lost)
        for number, answer in enumerate(answers):
            self._known[gold, answer] = None if lost else found[number]


def quick_verdict(gold: str, answer: str) -> bool | None:
    """The verdict where no mathematics is needed; None if math-verify has to decide.

    Integers of up to 15 digits, each alone or as `x = 5`; and answers to a number that are none (`is_evaluated`).
    """
    if not is_evaluated(answer, gold):
        return False
    left, right = _INTEGER.fullmatch(gold), _INTEGER.fullmatch(answer)
    if left is None or right is None:
        return None
    same_name = left[1] is None or right[1] is None or left[1] == right[1]
    return same_name and left[2] == right[2]


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


def decide(gold: str, answers: list[str], timeout_s: float) -> list[bool]:
    """math-verify's verdict on each answer; empty if it cannot read the gold. It is not symmetric: gold first."""
    from math_verify import verify

    parsed_gold = read(gold)
    if not parsed_gold:
        return []
    verdicts = []
    for answer in answers:
        restart_clock(timeout_s)
        verdicts.append(bool(verify(parsed_gold, read(answer), timeout_seconds=None)))
    return verdicts


def can_read(gold: str) -> bool:
    return bool(read(gold))


def read(answer: str) -> list[Any]:
    """What math-verify reads. In a box, because it would search any other text for something like an answer."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(
        logging.ERROR
    )  # it warns that its own time limits are off, in every worker
    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    parsed = parse(
        f"\\boxed{{{answer}}}", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=None
    )
    return list(parsed)
