"""What models are asked: the held-out problems, a JSONL file of one's own, or a benchmark that lighteval has.

Reads   data/prepared/test.jsonl; FILE.jsonl with `problem` and `answer`; a local copy of a benchmark's data

A benchmark's prompts, golds and metrics are those of lighteval's own definition; our judge says its verdict beside,
where the gold is an answer that it reads. Problems of the other two are judged as in training.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain import paths
from posttrain.errors import InputError
from posttrain.evaluation.runner import Benchmark, Runner
from posttrain.judge.answers import declared_answer, last_boxed
from posttrain.judge.kinds import kind_of
from posttrain.judge.verifier import Verifier
from posttrain.outputs.json_files import RESTORE, read_objects
from posttrain.params.schema import LocalTask
from posttrain.prompts import THINK_CLOSE

HELD_OUT = "held_out"
Problem = dict[str, Any]
"""`id`, `problem`, `answer`, and further columns."""


@dataclass(frozen=True)
class Task:
    """Problems, and who judges them."""

    name: str
    problems: list[Problem]
    benchmark: Benchmark | None = None
    bare: list[str] = field(default_factory=list)
    """The prompts of a benchmark for models without a chat template."""

    @property
    def plain(self) -> list[str]:
        return self.bare or [problem["problem"] for problem in self.problems]


@dataclass(frozen=True)
class Asked:
    """A task as params or a command line name it: `held_out`, FILE.jsonl, or a name of lighteval's."""

    name: str
    data: Path | None = None
    """A local copy of a benchmark's data."""

    @classmethod
    def of(cls, text: str) -> "Asked":
        """`gsm8k`, or `gsm8k=FOLDER` with a local copy of its data."""
        name, _, data = text.partition("=")
        return cls(name, Path(data) if data else None)

    @property
    def is_file(self) -> bool:
        return self.name.endswith(".jsonl")


def asked_of(entries: Sequence[str | LocalTask]) -> list[Asked]:
    """What `evaluate.tasks` names."""
    return [Asked(one) if isinstance(one, str) else Asked(one.name, Path(one.data)) for one in entries]


def load(asked: Sequence[Asked], runner: Runner, limit: int | None, verifier: Verifier) -> list[Task]:
    """The problems of each task, `limit` of each at most.

    Raises: InputError for what is not there, has no golds, or is no task
    """
    benchmarks = [Benchmark(one.name, one.data, limit) for one in asked if one.name != HELD_OUT and not one.is_file]
    for benchmark in benchmarks:
        require_data(benchmark)
    documents = runner.documents(benchmarks) if benchmarks else {}
    found = []
    for one in asked:
        if one.name in documents:
            benchmark = next(known for known in benchmarks if known.name == one.name)
            found.append(of_documents(benchmark, documents[one.name], verifier))
        else:
            found.append(of_file(Path(one.name), limit, verifier) if one.is_file else held_out(limit))
    return found


def require_data(benchmark: Benchmark) -> None:
    if benchmark.data is not None and not benchmark.data.is_dir():
        raise InputError(
            str(benchmark.data),
            got="no such folder",
            wanted=f"a local copy of the data of {benchmark.name}: SPLIT.jsonl or Parquet files",
            do="mend the path; without one the data come from the Hub",
        )


def held_out(limit: int | None = None) -> Task:
    problems = list(islice(read_objects(paths.PREPARED / "test.jsonl", RESTORE), limit))
    require_golds(problems)
    return Task(HELD_OUT, problems)


def require_golds(problems: list[Problem]) -> None:
    """Raises: InputError if the data have no gold answers to judge by."""
    if not all(problem["answer"] for problem in problems):
        raise InputError(
            str(paths.PREPARED / "test.jsonl"),
            got="problems without a gold answer (prepare.columns.answer is null)",
            wanted="a gold answer to judge by; the evaluation does not run programs",
            do="evaluate such a model with a benchmark of its own, for instance lighteval's lcb:codegeneration",
        )


def of_file(path: Path, limit: int | None, verifier: Verifier) -> Task:
    """Raises: InputError naming the first row without a problem or without a gold that the judge can read"""
    rows = islice(read_objects(path, "check the path, or mend the line"), limit)
    problems = [of_row(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]
    if not problems:
        raise InputError(str(path), got="no rows", wanted="problems, one a line", do="check the file")
    for number, can in enumerate(verifier.readable([problem["answer"] for problem in problems]), start=1):
        if not can:
            raise InputError(
                f"{path}: row {number}",
                got=f"`answer` is {problems[number - 1]['answer']!r:.60}",
                wanted="a gold that the judge can read",
                do="mend or remove the row",
            )
    return Task(path.stem, problems)


def of_row(found: dict[str, Any], where: str) -> Problem:
    for column in ("problem", "answer"):
        if not isinstance(found.get(column), str) or not found[column].strip():
            raise InputError(
                where,
                got=f"`{column}` is {found.get(column)!r:.60}; columns {', '.join(map(str, found))[:200] or 'none'}",
                wanted="text in `problem` and `answer`",
                do="rename the columns, or turn numbers into text",
            )
    problem, answer = found["problem"].strip(), found["answer"].strip()
    name = str(found.get("id", hashlib.sha256(problem.encode()).hexdigest()[:12]))
    flags = {"contaminated": True} if found.get("contaminated") is True else {}
    return {"id": name, "problem": problem, "answer": answer, **flags}


# ---------------------------------------------------------------------------------------------------------------------
# Benchmarks


def of_documents(benchmark: Benchmark, documents: list[dict[str, Any]], verifier: Verifier) -> Task:
    """`answer` is the gold that our judge reads, `gold` what lighteval judges by; without one no verdict of ours."""
    golds = [math_gold(document["golds"][0]) if len(document["golds"]) == 1 else None for document in documents]
    readable = verifier.readable([gold or "" for gold in golds])
    problems = [
        {
            "id": document["id"],
            "problem": document["problem"],
            "answer": gold if gold and can else None,
            "gold": " | ".join(document["golds"]),
        }
        for document, gold, can in zip(documents, golds, readable, strict=True)
    ]
    return Task(benchmark.name, problems, benchmark, [document["plain"] for document in documents])


def math_gold(text: str) -> str | None:
    r"""The answer in the gold of a benchmark: after `####` (GSM8K), in the last \boxed{}, or all of it."""
    answer = text.rpartition("####")[2] if "####" in text else last_boxed(text) or text
    answer = answer.strip().removeprefix("ANSWER:").strip()
    return answer if answer and kind_of(answer) != "prose" else None


FINAL = re.compile(r"(?:ANSWER|Answer|answer is|####)[:\s]*\$?([^\n$]+)")


def stated_answer(completion: str) -> str | None:
    r"""What a completion states in any of the forms that prompts of benchmarks ask for; the last one counts."""
    said = completion.rpartition(THINK_CLOSE)[2]
    if (found := declared_answer(completion) or last_boxed(said)) is not None:
        return found
    lines = FINAL.findall(said)
    return str(lines[-1]).strip().rstrip(".") or None if lines else None
