"""Any models on any tasks: every completion written or taken from what is kept, judged, and counted.

The stage evaluates the pipeline's models with it, `posttrain evaluate MODEL` any others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.evaluation.metrics import benchmark_metrics, model_metrics
from posttrain.evaluation.runner import Answered, Exam, Judged, Runner
from posttrain.evaluation.settings import Settings
from posttrain.evaluation.subjects import Subject
from posttrain.evaluation.tasks import Task, stated_answer
from posttrain.generation.completion_cache import Order, completions, model_hash
from posttrain.generation.generators import Generator
from posttrain.judge.answers import declared_answer
from posttrain.judge.kinds import kind_of_difference
from posttrain.judge.verifier import Verifier
from posttrain.rewards.scoring import judge

Row = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What a model wrote to one problem."""

    texts: list[str]
    finished: list[bool]
    tokens: list[int]
    """Length of each, its end token included."""


@dataclass(frozen=True)
class Found:
    """An evaluation: for each task a row a problem, and the metrics of each model."""

    rows: dict[str, list[Row]]
    metrics: dict[str, dict[str, dict[str, Any]]]
    versions: dict[str, str]


def evaluate(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    settings: Settings,
    generator_of: Callable[[Path], Generator],
    runner: Runner,
    verifier: Verifier,
) -> Found:
    """Raises: InputError for a model that cannot be asked; PosttrainError for completions that are not whole"""
    exams = [Exam(task.name, task.benchmark, task.problems, {}) for task in tasks]
    written: dict[tuple[str, str], list[Written]] = {}
    versions: dict[str, str] = {}
    for subject in subjects:
        with generator_of(subject.folder) as generator:
            for task, exam in zip(tasks, exams, strict=True):
                prompts, made = answer(subject, task, settings, generator)
                written[task.name, subject.name] = made
                exam.answers[subject.name] = [
                    Answered(prompt, one.texts) for prompt, one in zip(prompts, made, strict=True)
                ]
            versions |= generator.versions
    verdicts, judged_by = runner.judge(exams, {subject.name: subject.folder for subject in subjects})
    rows, metrics = {}, {}
    for task in tasks:
        made_by = {subject.name: written[task.name, subject.name] for subject in subjects}
        rows[task.name] = joined(task, made_by, verdicts[task.name], verifier)
        metrics[task.name] = measured(task, rows[task.name], verdicts[task.name], verifier)
    return Found(rows, metrics, {**judged_by, **{name: versions[name] for name in ("vllm",) if name in versions}})


def answer(subject: Subject, task: Task, settings: Settings, generator: Generator) -> tuple[list[str], list[Written]]:
    """The prompts of a task as the model read them, and what it wrote."""
    prompts = subject.prompts(task)
    subject.require_room(prompts, settings.max_new_tokens)
    order = Order(
        model=model_hash(subject.folder),
        name=f"evaluate | {subject.name}, {task.name}",
        prompts_P=prompts.ids,
        seeds_PN=settings.seeds(len(prompts.ids)),
        sampling=settings.sampling,
        end_tokens=subject.end_tokens,
    )
    made = [
        Written(
            texts=[subject.text(begun, tokens) for tokens in samples],
            finished=[tokens[-1] in subject.end_tokens for tokens in samples],
            tokens=[len(tokens) for tokens in samples],
        )
        for begun, samples in zip(prompts.begun, completions(order, generator), strict=True)
    ]
    return prompts.texts, made


# ---------------------------------------------------------------------------------------------------------------------
# Verdicts


def joined(
    task: Task, written: Mapping[str, list[Written]], theirs: Mapping[str, Judged], verifier: Verifier
) -> list[Row]:
    """One row a problem: what it is, and for each model its completions and the verdicts on each."""
    judged = benchmark_row if task.benchmark is not None else own_row
    return [
        {
            **problem,
            **{
                name: judged(made[number], theirs[name].correct[number], problem["answer"], verifier)
                for name, made in written.items()
            },
        }
        for number, problem in enumerate(task.problems)
    ]


def own_row(made: Written, theirs: list[float], gold: str, verifier: Verifier) -> Row:
    """Judged as in training. A completion without a verdict in time is wrong, and counted.

    `differs` has the kind of answer where lighteval's verdict is another, else null.
    """
    rewards = judge(made.texts, [gold] * len(made.texts), verifier)
    correct = [1.0 if reward["accuracy"] else 0.0 for reward in rewards]
    return {
        "completions": made.texts,
        "correct": correct,
        "finished": made.finished,
        "tokens": made.tokens,
        "rewards": rewards,
        "lighteval": theirs,
        "differs": [
            kind_of_difference(gold, declared_answer(text)) if ours != stock else None
            for text, ours, stock in zip(made.texts, correct, theirs, strict=True)
        ],
    }


def benchmark_row(made: Written, theirs: list[float], gold: str | None, verifier: Verifier) -> Row:
    """Judged by lighteval; `judge` is our verdict on the answers that are stated, null where none is or none is due."""
    stated = [stated_answer(text) if gold else None for text in made.texts]
    verdicts = verifier.agreements([(gold or "", answer) for answer in stated])
    ours = [None if answer is None else verdict for answer, verdict in zip(stated, verdicts, strict=True)]
    return {
        "completions": made.texts,
        "correct": theirs,
        "finished": made.finished,
        "tokens": made.tokens,
        "judge": ours,
        "differs": [
            kind_of_difference(gold or "", answer) if said is not None and said != (stock > 0.5) else None
            for answer, said, stock in zip(stated, ours, theirs, strict=True)
        ],
    }


def measured(
    task: Task, rows: list[Row], theirs: Mapping[str, Judged], verifier: Verifier
) -> dict[str, dict[str, Any]]:
    if task.benchmark is not None:
        return {name: benchmark_metrics(rows, name, judged.metrics) for name, judged in theirs.items()}
    return {name: model_metrics(rows, name, judged.metrics, verifier) for name, judged in theirs.items()}


def require_apart(names: Sequence[str]) -> None:
    """Raises: InputError if two models or tasks have one name"""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(
            ", ".join(twice),
            got="the same name twice",
            wanted="one name each",
            do="rename a file or folder, or give one",
        )
