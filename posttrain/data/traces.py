"""From the solutions of the sources to what SFT imitates, and the rules that leave some out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.data.golds import Golds
from posttrain.data.patterns import Bounded
from posttrain.data.problems import EXAMPLE_CHARS, EXAMPLES, TRAIN, Applied, Problems
from posttrain.data.progress import progress
from posttrain.data.shuffle import Shuffle
from posttrain.data.trace_form import Trace, parse
from posttrain.judge.answers import BOXED
from posttrain.params.schema import BUILT_IN, Prepare
from posttrain.prompts import completion_text

REASONS = {
    "empty": "empty, or without thoughts or answer",
    "mis-tagged": "with tags twice, out of order or within one another",
    "truncated": "cut off: a tag is never closed, or nothing follows the thoughts",
    "unanswered": "without a conclusion, of a problem without a gold",
    "contradicting": "that conclude something else than the gold (prepare.traces.contradicting)",
    "too-long": "of more characters than prepare.traces.max_chars",
    "repeated": "that their problem has already",
}
"""Each follows a number of traces, in the order in which the rules are applied."""

BATCH_CHARS = 2**24
"""Characters of traces that wait for the judge's word on their conclusions."""


@dataclass(frozen=True)
class Made:
    """A trace on its way."""

    row: int
    source: str
    completion: str | None
    """None where a rule has left it out."""
    fault: str
    gold: str
    conclusion: str | None
    """What the judge has to compare with the gold; None for nothing."""
    silent: bool = False
    """Whether the trace concludes nothing of its own."""


class Traces:
    """The traces of all rows that stay or became one with a row that stays."""

    def __init__(self, problems: Problems, golds: Golds | None, order: list[int], folder: Path) -> None:
        self.problems, self.golds = problems, golds
        self.places = {row: place for place, row in enumerate(order)}
        self.order = order
        self.shuffle = Shuffle(folder, len(order), problems.table.text_bytes)
        self.applied = {name: Applied(name, reason, 0) for name, reason in REASONS.items()}
        self.total = self.without_conclusion = 0
        self.lengths: Counter[int] = Counter()
        """Of the traces that are left, in characters: how many are below each power of two."""
        self.fates: dict[int, list[str]] = {}
        """Names of the rules that left out traces of a row."""
        self.draws = problems.params.dataset == BUILT_IN
        """Equal traces of a problem are several, and a wrong one is meant."""

    def collect(self) -> None:
        form, waiting, chars = Form(self.problems.params), list[Made](), 0
        for row, solutions in progress(solutions_of(self.problems), "rows with traces", total=len(self.problems)):
            owner = self.problems.owner(row)
            if owner not in self.places:
                continue
            for solution in solutions:
                waiting.append(form.make(row, solution, self.problems.golds[owner] or self.problems.golds[row]))
                chars += len(solution)
            if chars > BATCH_CHARS:
                self._take(waiting)
                waiting, chars = [], 0
        self._take(waiting)

    def _take(self, waiting: list[Made]) -> None:
        asked = [made for made in waiting if made.completion is not None and made.conclusion is not None]
        keep = self.draws or self.golds is None or self.problems.params.traces.contradicting == "keep"
        pairs = [] if keep or self.golds is None else [(made.gold, str(made.conclusion)) for made in asked]
        verdicts = self.golds.agree(pairs) if self.golds is not None and pairs else []
        wrong = {id(made) for made, verdict in zip(asked, verdicts, strict=bool(pairs)) if verdict is False}
        for made in waiting:
            self.total += 1
            if made.completion is None:
                self.leave_out(made.row, made.fault, made.source)
            elif id(made) in wrong:
                self.leave_out(made.row, "contradicting", f"concludes {made.conclusion}; the gold is {made.gold}")
            else:
                self.without_conclusion += made.silent
                self.shuffle.add(self.places[self.problems.owner(made.row)], made.row, made.completion)

    def leave_out(self, row: int, name: str, shown: str) -> None:
        self.fates.setdefault(row, []).append(name)
        rule = self.applied[name]
        rule.rows_out += 1
        if len(rule.examples) < EXAMPLES:
            text = shown if len(shown) <= EXAMPLE_CHARS else f"{shown[:80]} ... {shown[-80:]}"
            rule.examples.append(
                {"row": self.problems.name(row), "problem": self.problems.texts[row][:EXAMPLE_CHARS], "note": text}
            )

    def rows(self) -> Iterator[dict[str, str]]:
        """Of sft, in the order of the problems."""
        place, seen = -1, set[str]()
        for found, row, text in self.shuffle.ordered():
            if found != place:
                place, seen = found, set()
            if text in seen and not self.draws:
                self.leave_out(row, "repeated", text)
                continue
            seen.add(text)
            self.lengths[bin_of(len(text))] += 1
            owner = self.order[place]
            yield {"id": self.problems.id(owner), "problem": self.problems.texts[owner], "completion": text}

    def record(self) -> list[dict[str, object]]:
        """Of the rules in their order: what went in and out."""
        left, found = self.total, []
        for rule in self.applied.values():
            rule.rows_in = left
            left -= rule.rows_out
            found.append(rule.record())
        return found


def bin_of(length: int) -> int:
    """The power of two that a length is below, 64 at least."""
    return max(64, 1 << length.bit_length())


def solutions_of(problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Solutions of the rows for SFT that no rule has left out, other than by making them one with another row."""
    wanted = ((problems.fate == -1) | (problems.into != -1)) & (problems.part == TRAIN)
    for first, batch in problems.table.stream("solutions"):
        for place in np.flatnonzero(wanted[first : first + len(batch["solutions"])]).tolist():
            if problems.uses[first + place] != "grpo" and batch["solutions"][place]:
                yield first + place, batch["solutions"][place]


class Form:
    """The project's form of a trace: thoughts and answer in their tags, each once, and nothing else.

    The answer is the gold. Where the trace contradicts it and is kept all the same, it is the trace's own.
    """

    def __init__(self, params: Prepare) -> None:
        answer, drop = params.answer_pattern, params.drop_pattern
        self.answer = Bounded("prepare.answer_pattern", answer) if answer else None
        self.drop = Bounded("prepare.drop_pattern", drop) if drop else None
        self.answered = params.columns.answer is not None or params.dataset == BUILT_IN
        self.own = params.traces.contradicting == "keep" or params.dataset == BUILT_IN
        self.max_chars = params.traces.max_chars

    def make(self, row: int, solution: str, gold: str) -> Made:
        if self.drop is not None:
            solution = self.drop.sub("", solution)
        found = parse(solution)
        if isinstance(found, str):
            return Made(row, solution, None, found, gold, None)
        completion = self.completion(found, gold)
        if completion is None:
            return Made(row, solution, None, "unanswered", gold, None)
        if self.max_chars is not None and len(completion) > self.max_chars:
            return Made(row, solution, None, "too-long", gold, None)
        differs = found.conclusion is not None and gold and found.conclusion != gold
        asked = found.conclusion if differs else None
        return Made(row, solution, completion, "", gold, asked, silent=found.conclusion is None)

    def completion(self, trace: Trace, gold: str) -> str | None:
        if not self.answered and not trace.tagged:
            return trace.thoughts
        own = trace.conclusion if self.answered else trace.said
        answer = own if self.own and own else gold or own
        return completion_text(self.without_the_gold(trace.thoughts), answer) if answer else None

    def without_the_gold(self, thoughts: str) -> str:
        r"""A match of `answer_pattern` goes; a \boxed{} stays, because it is part of a sentence."""
        if self.answer is None:
            return thoughts
        return self.answer.sub(lambda match: match[0] if BOXED in match[0] else "", thoughts).strip()
