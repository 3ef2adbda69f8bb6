"""Is the declared answer equal to the gold? Decided by kind, formulas by math-verify in processes that can be ended.

Each distinct (gold, answer) is decided once in a run, a gold is parsed once for all its answers of a batch, and what
needs no algebra, as most answers, is compared here. A verdict that takes too long is None: no score,
left out of the group's statistics, counted. It is never a 0, which would teach that a right answer is wrong.

Source: Math-Verify's issues 50, 55 and 65 and open-r1's 420 tell what happens without.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.errors import InputError
from posttrain.judge.algebra import UnreadableGold, equal, readable
from posttrain.judge.answers import MAX_ANSWER_CHARS
from posttrain.judge.comparison import agree
from posttrain.judge.numbers import number
from posttrain.judge.values import read
from posttrain.processes.pool import Closing, Lost, Pool, restart_clock

REMEMBERED = 2**18
"""Verdicts kept; the oldest go first."""

WINDOW = 512
"""Completions over which the share without a verdict is taken."""

Pair = tuple[str, str]
Question = tuple[str, list[str]]
"""A gold and its new answers."""


class Verifier(Closing):
    """Verdicts by `workers` processes. `timeout_s`: CPU seconds for one answer."""

    def __init__(self, timeout_s: float, max_timeout_frac: float, workers: int) -> None:
        self.timeout_s, self.max_timeout_frac = timeout_s, max_timeout_frac
        self.pool = Pool(workers)
        self.timeouts = 0
        """Completions without a verdict so far."""
        self._known: OrderedDict[Pair, bool | None] = OrderedDict()
        self._readable: dict[str, bool] = {}
        """Of golds that are no numbers."""
        self._unreadable: set[str] = set()
        self._lost: set[Pair] = set()
        """Pairs of this batch that lost their workers, not their time: they are asked again in the next."""
        self._recent: deque[bool] = deque(maxlen=WINDOW)

    def close(self) -> None:
        self.pool.close()

    def verdicts(self, pairs: Sequence[tuple[str, str | None]]) -> list[bool | None]:
        """For each (gold, declared answer): True, False, or None for no verdict in time. No answer is False.

        Raises: ValueError if math-verify cannot read a gold, which the prepare stage leaves out.
        """
        verdicts = self.agreements(pairs)
        for gold, _ in pairs:
            if gold in self._unreadable:
                raise ValueError(f"math-verify cannot read the gold answer {gold!r}")
        return verdicts

    def agreements(self, pairs: Sequence[tuple[str, str | None]]) -> list[bool | None]:
        """Verdicts where the first of a pair is an answer as well: False where math-verify cannot read it."""
        asked = dict.fromkeys((gold, answer) for gold, answer in pairs if answer is not None)
        self._decide([pair for pair in asked if pair not in self._known])
        verdicts = [False if answer is None else self._known[gold, answer] for gold, answer in pairs]
        while self._lost:
            self._known.pop(self._lost.pop(), None)
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
        """For each gold: can an answer meet it, in time? Asked once in a run, like a verdict."""
        self._readable |= {gold: False for gold in golds if len(gold) > MAX_ANSWER_CHARS}
        unknown = [gold for gold in dict.fromkeys(golds) if number(gold) is None and gold not in self._readable]
        found = self.pool.run(can_read, [(gold,) for gold in unknown], self.timeout_s)
        asked = zip(unknown, found, strict=True)
        self._readable |= {gold: value is True for gold, value in asked if getattr(value, "why", "") != "crash"}
        return [self._readable.get(gold, True) for gold in golds]

    def _decide(self, pairs: list[Pair]) -> None:
        """Enter the verdicts of new pairs. Answers to one gold that lost their worker together are asked one by one."""
        by_gold: dict[str, list[str]] = {}
        for gold, answer in pairs:
            verdict = quick_verdict(gold, answer)
            if verdict is None:
                by_gold.setdefault(gold, []).append(answer)
            else:
                self._known[gold, answer] = verdict
        alone: list[Question] = []
        for (gold, answers), found in self._ask(list(by_gold.items())):
            if isinstance(found, Lost) and len(answers) > 1:
                alone += [(gold, [answer]) for answer in answers]
            else:
                self._enter(gold, answers, found)
        for (gold, answers), found in self._ask(alone):
            self._enter(gold, answers, found)

    def _ask(self, questions: list[Question]) -> Iterable[tuple[Question, Any]]:
        calls = [(gold, answers, self.timeout_s) for gold, answers in questions]
        return zip(questions, self.pool.run(decide, calls, self.timeout_s), strict=True)

    def _enter(self, gold: str, answers: list[str], found: Any) -> None:
        if isinstance(found, Lost) and found.why == "error":
            raise RuntimeError(f"math-verify failed on gold {gold!r} and answer {answers[0]!r}: {found.text}")
        if found == []:
            self._unreadable.add(gold)
            found = [False] * len(answers)
        lost = isinstance(found, Lost)
        if lost and found.why == "crash":
            self._lost.update((gold, answer) for answer in answers)
        for place, answer in enumerate(answers):
            self._known[gold, answer] = None if lost else found[place]


def quick_verdict(gold: str, answer: str) -> bool | None:
    """The verdict where no algebra is needed; None if math-verify has to decide."""
    try:
        return agree(gold, answer, _no_algebra)
    except NeedsAlgebra:
        return None


class NeedsAlgebra(Exception):
    """Two formulas that are not the same text."""


def _no_algebra(gold: str, answer: str) -> bool:
    raise NeedsAlgebra


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


def decide(gold: str, answers: list[str], timeout_s: float) -> list[bool]:
    """The verdict on each answer; empty if math-verify cannot read the gold."""
    verdicts = []
    for answer in answers:
        restart_clock(timeout_s)
        try:
            verdicts.append(agree(gold, answer, equal))
        except UnreadableGold:
            return []
    return verdicts


def can_read(gold: str) -> bool:
    """The gold is met by itself, and by itself as models write it."""
    written = (gold, f"{gold}.", f"\\({gold}\\)", f"\\[{gold}\\]", f"**{gold}**")
    return readable(read(gold)) and all(agree(gold, answer, equal) for answer in written)
