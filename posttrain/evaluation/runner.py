"""Who knows benchmarks and judges completions of them: an interface with one implementation, lighteval.

Another evaluator is another class with these two methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class Benchmark:
    """A task by its name in the evaluator."""

    name: str
    data: Path | None
    """A local copy of its data; None for the Hub."""
    limit: int | None
    """Documents at most."""


class Answered(NamedTuple):
    """What a model was asked, and its completions."""

    prompt: str
    texts: list[str]


@dataclass(frozen=True)
class Exam:
    """One task with the answers of each model to each of its problems."""

    name: str
    benchmark: Benchmark | None
    problems: list[dict[str, Any]]
    answers: dict[str, list[Answered]]


class Judged(NamedTuple):
    """What the evaluator says of one model in one task."""

    metrics: dict[str, float]
    """Its own, by its names."""
    correct: list[list[float]]
    """Its verdict on each completion of each problem."""


Verdicts = dict[str, dict[str, Judged]]
"""By task and model."""


class Runner(Protocol):
    """An evaluator."""

    def documents(self, benchmarks: Sequence[Benchmark]) -> dict[str, list[dict[str, Any]]]:
        """Of each benchmark, documents with `id`, `problem`, `plain` (for models without a chat template), `golds`.

        Raises: InputError for a name that it does not know
        """

    def judge(self, exams: Sequence[Exam], models: Mapping[str, Path]) -> tuple[Verdicts, dict[str, str]]:
        """Its verdicts, and the versions of what decided them."""
