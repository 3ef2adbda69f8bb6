"""Stage 1: problems, gold answers and teacher traces in one form, training and held-out problems apart.

Reads   the `prepare` and `verifier` sections: a source of problems (built-in equations, a file, a folder, the Hub)
Writes  data/prepared/{sft,train,test}.jsonl and a manifest that counts every row left out and why
Run     posttrain prepare

`sft.jsonl` has {id, problem, completion}, one row a trace; `train.jsonl` and `test.jsonl` have {id, problem, answer}
and the columns to keep, one row a problem. No problem of the test set is in the other two.
"""

import hashlib
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from stages.errors import InputError
from stages.manifest import publish, scratch, write_jsonl
from stages.params import Params, Prepare
from stages.paths import PREPARED
from stages.prepare.equations import equations, teacher_trace
from stages.prepare.sources import Row, load_rows
from stages.prompts import completion_text
from stages.provenance import log_run, record
from stages.rewards.verifier import Verifier

BUILT_IN = "equations"


@dataclass(frozen=True)
class Problem:
    text: str
    answer: str
    """The gold, as math-verify reads it."""
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


def run(params: Params) -> None:
    """Prepare and publish data/prepared."""
    began, made_from = time.monotonic(), record("prepare", params)
    dropped: Counter[str] = Counter()
    train, test = built_in(params) if params.prepare.dataset == BUILT_IN else from_source(params.prepare, dropped)
    if params.prepare.dataset == BUILT_IN or params.prepare.columns.answer is not None:
        with Verifier(params.verifier.timeout_s, 1.0, params.launch.reward_workers) as verifier:
            train, test = (gradable(problems, verifier, dropped) for problems in (train, test))
    test, train = deduplicate(test, dropped), deduplicate(train, dropped)
    train = cap(decontaminate(train, test, dropped), params.prepare.max_train, dropped)
    test = cap(test, params.prepare.max_test, dropped)
    require_rows(train, test, params.prepare, dropped)
    traces = [(problem, completion) for problem in train for completion in problem.completions]
    rows = {
        "sft": [{"id": p.id, "problem": p.text, "completion": completion} for p, completion in traces],
        "train": [p.row() for p in train],
        "test": [p.row() for p in test],
    }
    counts = {name: len(value) for name, value in rows.items()}
    with scratch("prepare") as folder:
        out = folder / "prepared"
        out.mkdir()
        for name, value in rows.items():
            write_jsonl(out / f"{name}.jsonl", value)
        publish(out, PREPARED, made_from | {"rows": counts, "dropped": dict(+dropped)})
    log_run("prepare", seconds=time.monotonic() - began)
    print(f"prepare | {counts['train']} training problems with {counts['sft']} traces | {counts['test']} held out")
    for reason, number in sorted((+dropped).items()):
        print(f"prepare | left out: {number} {reason}")
    print(f"prepare | wrote {PREPARED}/ | next: posttrain sft")


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
    """Problems with one trace each; rows whose answer does not match `answer_pattern` are counted and left out."""
    pattern = re.compile(params.answer_pattern) if params.answer_pattern else None
    columns, problems = params.columns, []
    for row in rows:
        answer, solution = row[columns.answer] if columns.answer else "", row[columns.solution]
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
        kept = tuple((name, row[name]) for name in columns.keep)
        problems.append(Problem(row[columns.problem].strip(), answer, (trace,), kept))
    return problems


def gradable(problems: list[Problem], verifier: Verifier, dropped: Counter[str]) -> list[Problem]:
    """Those whose gold math-verify can read: a reward against an unreadable gold would be noise."""
    readable = verifier.readable([problem.answer for problem in problems])
    kept = [problem for problem, can in zip(problems, readable, strict=True) if can]
    dropped["with a gold answer that math-verify cannot read"] += len(problems) - len(kept)
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
