"""Two evaluations of the same problems, side by side: of two commits, experiments or folders, or two models of one.

Reads   results/evaluate/samples.jsonl of each; that of a commit or an experiment from DVC's cache
Run     posttrain compare A B, each `WHAT` or `WHAT:MODEL`: `workspace`, a folder, or a revision as git names it; `grpo`
        if no model is named

Nothing is generated: what was evaluated is compared, problem by problem, by the statistics of the evaluation.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.commands.chat import printable
from posttrain.errors import InputError
from posttrain.evaluation.rows import ROWS
from posttrain.evaluation.statistics import compared, interval
from posttrain.paths import EVALUATE_RESULTS

SAMPLES = EVALUATE_RESULTS / "samples.jsonl"
WORKSPACE = "workspace"
SHOWN = 5
"""Problems of each kind that are printed."""


@dataclass(frozen=True)
class Evaluated:
    """What one model made of the problems."""

    name: str
    right: dict[tuple[str, str], list[float]]
    """Of each problem and its gold, whether each completion is right."""

    @property
    def completions(self) -> int:
        return len(next(iter(self.right.values())))


def compare(first: str, second: str) -> None:
    """Print pass@1 of both, the gain of the second over the first, and the problems whose answers changed.

    Raises: InputError if one cannot be read, or if they have no problems in common.
    """
    models = [evaluated(text) for text in (first, second)]
    problems = in_common(*models)
    n = models[0].completions
    before_P, after_P = ([share(model.right[problem]) for problem in problems] for model in models)
    width = max(len(model.name) for model in models)
    for model, rates_P in zip(models, (before_P, after_P), strict=True):
        found, left_out = interval(rates_P, n), len(model.right) - len(problems)
        others = f" | {left_out} problems that the other has not are left out" if left_out else ""
        print(f"compare | {model.name:{width}} pass@1 {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{others}")
    found_gain = compared(before_P, after_P, n)
    told = found_gain.claim(len(problems), n)
    print(f"compare | {found_gain.verdict}: {models[1].name} over {models[0].name} {told}")
    changes = sorted(zip(problems, before_P, after_P, strict=True), key=lambda row: -abs(row[2] - row[1]))
    for word, sign in (("better", 1), ("worse", -1)):
        show(word, [row for row in changes if (row[2] - row[1]) * sign > 0], n)


def share(right: list[float]) -> float:
    return sum(right) / len(right)


def show(word: str, rows: list[tuple[tuple[str, str], float, float]], n: int) -> None:
    print(f"compare | {len(rows)} problems {word}{':' if rows else ''}")
    for (problem, gold), before, after in rows[:SHOWN]:
        text = printable(" ".join(problem.split()))
        told = f"{text[:90]}…" if len(text) > 90 else text
        print(f"compare |   {told} (gold {printable(gold)}): {before * n:.0f} of {n}, then {after * n:.0f}")


def in_common(first: Evaluated, second: Evaluated) -> list[tuple[str, str]]:
    """Problems with the same text and gold, in the first one's order.

    Raises: InputError if there is none, or if the models had another number of tries.
    """
    if first.completions != second.completions:
        raise InputError(
            f"{first.name} and {second.name}",
            got=f"{first.completions} and {second.completions} completions a problem",
            wanted="as many, evaluate.num_samples, for a paired comparison",
            do="evaluate both with the same params",
        )
    problems = [problem for problem in first.right if problem in second.right]
    if not problems:
        raise InputError(
            f"{first.name} and {second.name}",
            got="no problem that both have, with the same gold",
            wanted="evaluations of the same problems",
            do="name two evaluations of the same data",
        )
    return problems


def evaluated(text: str) -> Evaluated:
    """Raises: InputError if there are no samples, or none of that model."""
    what, _, model = text.rpartition(":")
    what, model = (what, model) if what and model in ROWS else (text, "grpo")
    right = {}
    for row in rows_of(what):
        if not isinstance(row.get(model), dict):
            known = [name for name in ROWS if name in row]
            raise InputError(
                text,
                got=f"an evaluation without {model}",
                wanted=f"one of {', '.join(known)}",
                do=f"{what}:{known[-1]}",
            )
        right[row["problem"], row["answer"]] = row[model]["correct"]
    if not right:
        raise InputError(text, got="no samples", wanted="the output of `posttrain evaluate`", do="run it there")
    return Evaluated(f"{what}:{model}", right)


def rows_of(what: str) -> Iterable[dict[str, Any]]:
    text = of_revision(what) if (path := here(what)) is None else path.read_text(encoding="utf-8")
    return (json.loads(line) for line in text.split("\n") if line)


def here(what: str) -> Path | None:
    """The samples of the workspace, or of a folder; None if `what` is neither.

    Raises: InputError for a folder without samples
    """
    if what != WORKSPACE and not Path(what).is_dir():
        return None
    folder = Path() if what == WORKSPACE else Path(what)
    for path in (folder / SAMPLES, folder / SAMPLES.name):
        if path.is_file():
            return path
    raise InputError(
        str(folder / SAMPLES), got="no such file", wanted="an evaluation's samples", do="run `posttrain evaluate` there"
    )


def of_revision(revision: str) -> str:
    """Raises: InputError if git knows no such revision, or DVC has not its samples"""
    from dvc.api import read

    try:
        return str(read(str(SAMPLES), rev=revision, mode="r", encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - dvc's, scmrepo's and those of file systems share no narrower one
        raise InputError(
            revision,
            got=" ".join(str(error).split())[:200] or type(error).__name__,
            wanted=f"`{WORKSPACE}`, a folder, or a commit, branch, tag or experiment whose {SAMPLES} DVC has",
            do="`git log` and `dvc exp show` name them; `dvc fetch` and `dvc exp pull origin` get what is not here",
        ) from None
