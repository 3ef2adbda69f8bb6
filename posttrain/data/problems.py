"""Every row of the sources as a problem with a gold, and its fate: kept, left out by a rule, or merged into another."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.data.patterns import Bounded
from posttrain.data.table import Table
from posttrain.judge.answers import BOXED, last_boxed
from posttrain.params.schema import Prepare

EXAMPLES = 10
EXAMPLE_CHARS = 160

TRAIN, TEST = 0, 1


@dataclass(frozen=True)
class LeftOut:
    """A row that a rule leaves out."""

    row: int
    note: str = ""
    """What the rule saw, shown beside the problem."""
    into: int | None = None
    """The row that it becomes one with, whose problem and gold stay; its traces go over to it."""
    like: str = ""
    """The problem that it is like in other words, shown beside it; nothing goes over."""


@dataclass(frozen=True)
class Rule:
    """Decides which of the rows that are left go out."""

    name: str
    reason: str
    """Follows a number of rows: `duplicates`, `with a gold that the judge cannot read`."""
    decide: Callable[["Problems"], Iterable[LeftOut]]


@dataclass
class Applied:
    """What a rule did."""

    name: str
    reason: str
    rows_in: int
    rows_out: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        counts = {"in": self.rows_in, "left_out": self.rows_out, "out": self.rows_in - self.rows_out}
        return {"name": self.name, "reason": self.reason, **counts, "examples": self.examples}


@dataclass
class Noted:
    """Rows that stay and are worth a look, each beside a problem that it is like; the likest are the examples."""

    name: str
    reason: str
    rows: set[int] = field(default_factory=set)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "reason": self.reason, "rows": len(self.rows), "examples": self.examples}


class Problems:
    """The rows by number. Texts and golds are in memory; traces and further columns stay in the table on disk."""

    def __init__(self, table: Table, params: Prepare) -> None:
        self.table, self.params = table, params
        self.texts: list[str] = []
        self.golds: list[str] = []
        """As the source writes them; empty for none."""
        self.keys: list[bytes] = []
        """Equal for problems that differ only in case or white space."""
        self.uses: list[str] = []
        """For each row what it is for: both, sft or grpo."""
        self.sources: list[str] = []
        self.source_rows: list[int] = []
        self.faults: dict[int, str] = {}
        self.unmatched: list[int] = []
        """Rows in which `answer_pattern` finds no gold."""
        self._read()
        self.part = np.full(len(self.texts), TRAIN, np.int8)
        self.fate = np.full(len(self.texts), -1, np.int16)
        """Number of the rule that left a row out, in the order of `applied`; -1 for a row that is kept."""
        self.into = np.full(len(self.texts), -1, np.int64)
        """The row that a row is merged into."""
        self.notes: dict[int, str] = {}
        self.applied: list[Applied] = []
        self.noted: dict[str, Noted] = {}
        self.contaminated: set[int] = set()
        """Test rows whose problem is among the training problems all the same."""
        self._split()

    def __len__(self) -> int:
        return len(self.texts)

    def _read(self) -> None:
        text = self.params.answer_pattern
        pattern = Bounded("prepare.answer_pattern", text) if text else None
        for first, batch in self.table.stream("problem", "answer", "use", "fault", "source", "row"):
            for number, fault in enumerate(batch["fault"], first):
                if fault is not None:
                    self.faults[number] = fault
            for number, answer in enumerate(batch["answer"], first):
                gold = gold_in(answer or "", pattern)
                if gold is None:
                    self.unmatched.append(number)
                self.golds.append((gold or "").strip())
            self.texts += [(text or "").strip() for text in batch["problem"]]
            self.uses += map(sys.intern, batch["use"])
            self.sources += map(sys.intern, batch["source"])
            self.source_rows += batch["row"]
        self.keys = [key_of(text) for text in self.texts]

    def _split(self) -> None:
        """By the sources' splits, or by a hash of the problem's text where there is no test split. Rows for SFT alone
        are not held out: nothing would be evaluated by them."""
        if self.table.test is not None:
            self.part[len(self.table.train) :] = TEST
            return
        each = zip(self.keys, self.uses, strict=True)
        self.part[[use != "sft" and held_out(key, self.params.test_frac) for key, use in each]] = TEST

    def rows(self, part: int | None = None) -> list[int]:
        """Rows that no rule has left out so far, in their order."""
        left = self.fate == -1
        return np.flatnonzero(left if part is None else left & (self.part == part)).tolist()

    def apply(self, rule: Rule) -> None:
        done = Applied(rule.name, rule.reason, int((self.fate == -1).sum()))
        for out in rule.decide(self):
            assert self.fate[out.row] == -1, f"row {out.row} is left out twice"
            self.fate[out.row] = len(self.applied)
            if out.into is not None:
                self.into[out.row] = out.into
            if out.note:
                self.notes[out.row] = out.note[:EXAMPLE_CHARS]
            done.rows_out += 1
            if len(done.examples) < EXAMPLES:
                done.examples.append(self.example(out))
        self.applied.append(done)

    def note(self, name: str, reason: str, row: int, like: str, likeness: float | None) -> None:
        """Lists a row that stays beside a problem that it is like; the first of the rows are shown."""
        noted = self.noted.setdefault(name, Noted(name, reason))
        if row not in noted.rows and len(noted.examples) < EXAMPLES:
            note = "" if likeness is None else f"{likeness:.2f} of its word trigrams"
            noted.examples.append(self.example(LeftOut(row, note, like=like)))
        noted.rows.add(row)

    def id(self, row: int) -> str:
        return self.keys[row].hex()[:12]

    def owner(self, row: int) -> int:
        """The row that stands for this one: itself, or the last of those that it was merged into."""
        while self.into[row] != -1:
            row = int(self.into[row])
        return row

    def name(self, row: int) -> str:
        """SOURCE:ROW, as `posttrain data --why` takes it."""
        return f"{self.sources[row]}:{self.source_rows[row]}"

    def example(self, out: LeftOut) -> dict[str, Any]:
        shown = {"row": self.name(out.row), "problem": self.texts[out.row][:EXAMPLE_CHARS]}
        if out.note:
            shown["note"] = out.note[:EXAMPLE_CHARS]
        if out.like:
            shown["like"] = out.like[:EXAMPLE_CHARS]
        if out.into is not None:
            shown |= {"into": self.name(out.into), "into_problem": self.texts[out.into][:EXAMPLE_CHARS]}
        return shown


def gold_in(answer: str, pattern: Bounded | None) -> str | None:
    r"""The gold: group 1 of the pattern, or all of the answer; None where the pattern finds none.

    In a \boxed{} it ends where the braces match, which no regular expression can say.
    """
    if pattern is None or not answer:
        return answer
    match = pattern.search(answer)
    if match is None or match[1] is None:
        return None
    return last_boxed(answer) or match[1] if answer[: match.start(1)].endswith(BOXED) else match[1]


def key_of(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.lower().split()).encode()).digest()


def held_out(key: bytes, test_frac: float) -> bool:
    """Decided by the problem's text alone: the same for every seed, order and mixture."""
    return int.from_bytes(key[:4], "big") < test_frac * 2**32
