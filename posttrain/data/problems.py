"""Problems in one form, and the rules that leave some out: unreadable golds, duplicates, what the test set has too."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from posttrain.data.equations import equations, teacher_trace
from posttrain.data.sources import Row, load_rows
from posttrain.errors import InputError
from posttrain.judge.kinds import Kind, kind_of
from posttrain.judge.verifier import Verifier
from posttrain.params.schema import Params, Prepare
from posttrain.prompts import completion_text

BUILT_IN = "equations"

EXAMPLES = 5
EXAMPLE_CHARS = 80
Examples = dict[str, list[str]]
"""Golds left out, a few for each reason."""


@dataclass(frozen=True)
class Problem:
    text: str
    answer: str
    """The gold, as the source writes it."""
    completions: tuple[str, ...]
    """What SFT imitates; empty for test problems."""
    kept: tuple[tuple[str, Any], ...] = ()
    """Columns that `prepare.columns.keep` names."""

    @property
    def key(self) -> str:
        """Equal for problems that differ only in case or white space."""
        return hashlib.sha256(" ".join(self.text.lower().split()).encode()).hexdigest()

    @property
    def id(self) -> str:
        return self.key[:12]

    def row(self) -> dict[str, Any]:
        return {**dict(self.kept), "id": self.id, "problem": self.text, "answer": self.answer}


def built_in(params: Params) -> tuple[list[Problem], list[Problem]]:
    """The equations, split by a hash of their text; the teacher's mistakes come from the seed."""
    config = params.prepare.equations
    train, test = [], []
    for equation in equations(config):
        problem = Problem(equation.problem, equation.answer, ())
        if held_out(problem, params.prepare.test_frac):
            test.append(problem)
            continue
        rng = random.Random(f"{params.seed}/{problem.key}")
        traces = tuple(teacher_trace(equation, config.teacher, rng) for _ in range(config.traces_per_problem))
        train.append(Problem(problem.text, problem.answer, traces))
    return train, test


def from_source(params: Prepare, dropped: Counter[str]) -> tuple[list[Problem], list[Problem]]:
    """Problems of a dataset; without a test split some of the training problems are held out."""
    train = normalise(load_rows(params, params.train_split), params, dropped)
    if params.test_split is not None:
        return train, normalise(load_rows(params, params.test_split), params, dropped)
    parts: dict[bool, list[Problem]] = {False: [], True: []}
    for problem in train:
        parts[held_out(problem, params.test_frac)].append(problem)
    return parts[False], parts[True]


def held_out(problem: Problem, test_frac: float) -> bool:
    """Decided by the problem's text alone: the same for every seed, order and mixture."""
    return int(problem.key[:8], 16) < test_frac * 2**32


def normalise(rows: list[Row], params: Prepare, dropped: Counter[str]) -> list[Problem]:
    """Problems, with one trace each where there are solutions; rows whose answer does not match `answer_pattern` are
    counted and left out."""
    pattern = re.compile(params.answer_pattern) if params.answer_pattern else None
    columns, problems = params.columns, []
    for row in rows:
        answer = row[columns.answer] if columns.answer else ""
        solution = row[columns.solution] if columns.solution else ""
        if pattern is not None and columns.answer:
            match = pattern.search(answer)
            if match is None or match[1] is None:
                dropped["without a match of prepare.answer_pattern"] += 1
                continue
            answer, solution = match[1], pattern.sub("", solution)
        if params.drop_pattern:
            solution = re.sub(params.drop_pattern, "", solution)
        answer = answer.strip()
        trace = completion_text(solution.strip(), answer) if columns.answer else solution.strip()
        traces = (trace,) if columns.solution else ()
        kept = tuple((name, row[name]) for name in columns.keep)
        problems.append(Problem(row[columns.problem].strip(), answer, traces, kept))
    return problems


def gradable(
    problems: list[Problem], kinds: Collection[Kind], verifier: Verifier, dropped: Counter[str], examples: Examples
) -> list[Problem]:
    """Those whose gold an answer can meet, and is of none of the kinds to leave out: other rewards would be noise."""
    readable = verifier.readable([problem.answer for problem in problems])
    kept = []
    for problem, can in zip(problems, readable, strict=True):
        kind = kind_of(problem.answer) if can else None
        if can and kind not in kinds:
            kept.append(problem)
            continue
        reason = f"with a gold that is {kind} (prepare.drop_golds)" if can else "with a gold that the judge cannot read"
        dropped[reason] += 1
        shown = examples.setdefault(reason, [])
        if len(shown) < EXAMPLES and problem.answer not in shown:
            shown.append(problem.answer[:EXAMPLE_CHARS])
    return kept


def deduplicate(problems: list[Problem], dropped: Counter[str]) -> list[Problem]:
    """The first of equal problems (case and white space aside), with the traces of all that share its gold."""
    unique: dict[str, Problem] = {}
    for problem in problems:
        first = unique.setdefault(problem.key, problem)
        if first is problem:
            continue
        dropped["duplicates" if problem.answer == first.answer else "duplicates with another gold"] += 1
        if problem.answer == first.answer:
            traces = dict.fromkeys((*first.completions, *problem.completions))
            unique[problem.key] = replace(first, completions=tuple(traces))
    return list(unique.values())


def decontaminate(train: list[Problem], test: list[Problem], dropped: Counter[str]) -> list[Problem]:
    """Training problems that are not in the test set."""
    keys = {problem.key for problem in test}
    kept = [problem for problem in train if problem.key not in keys]
    dropped["training problems that are in the test set"] += len(train) - len(kept)
    return kept


def cap(problems: list[Problem], limit: int | None, dropped: Counter[str]) -> list[Problem]:
    """`limit` problems, chosen and ordered by a hash of their text: the same ones for every seed and file order."""
    ordered = sorted(problems, key=lambda problem: problem.key)
    dropped["beyond prepare.max_train or max_test"] += len(ordered) - len(ordered[:limit])
    return ordered[:limit]


def require_rows(train: list[Problem], test: list[Problem], params: Prepare, dropped: Counter[str]) -> None:
    """Raises: InputError if one of the sets is empty."""
    for name, problems in (("training", train), ("test", test)):
        if not problems:
            reasons = ", ".join(f"{number} {reason}" for reason, number in sorted((+dropped).items()))
            raise InputError(
                f"params.yaml: prepare ({params.dataset})",
                got=f"no {name} problems; left out: {reasons or 'none'}",
                wanted="one at least",
                do="check answer_pattern, columns, the splits and the bounds",
            )
