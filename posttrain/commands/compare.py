"""Two evaluations of the same problems, side by side: of two commits, experiments or folders, or two models of one.

Reads   results/evaluate/samples.jsonl of each; that of a commit or an experiment from DVC's cache
Run     posttrain compare A B, each `WHAT` or `WHAT:MODEL`: `workspace`, a folder, or a revision as git names it; `grpo`
        if no model is named, or the only one

Nothing is generated: what was evaluated is compared, problem by problem, by the statistics of the evaluation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.commands.chat import printable
from posttrain.errors import InputError
from posttrain.evaluation.statistics import compared, interval
from posttrain.outputs.json_files import RESTORE, objects, read_objects
from posttrain.paths import EVALUATE_RESULTS

SAMPLES = EVALUATE_RESULTS / "samples.jsonl"
WORKSPACE = "workspace"
HELD_OUT = "held_out"
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


def compare(evaluations: list[str], task: str | None = None) -> None:
    """Print pass@1 of both, the gain of the second over the first, and the problems whose answers changed.

    Raises: InputError unless they are two, if one cannot be read, or if they have no problems in common.
    """
    if len(evaluations) != 2:
        raise InputError(
            "posttrain compare",
            got=f"{len(evaluations)} evaluations",
            wanted="two; the runs of several seeds go with --seeds",
            do="name two, or add --seeds",
        )
    models = [evaluated(text, task) for text in evaluations]
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


def evaluated(text: str, task: str | None = None) -> Evaluated:
    """Raises: InputError if there are no samples, or none of that task or model."""
    what, model = parsed(text)
    rows = of_task(list(rows_of(what)), text, task)
    model = model or default(rows[0], text)
    if model not in made_by(rows[0]):
        known = made_by(rows[0])
        raise InputError(
            text, got=f"an evaluation without {model}", wanted=f"one of {', '.join(known)}", do=f"{what}:{known[-1]}"
        )
    right = {(row["problem"], row.get("answer") or row.get("gold", "")): row[model]["correct"] for row in rows}
    return Evaluated(f"{what}:{model}", right)


def parsed(text: str) -> tuple[str, str | None]:
    """`WHAT` and the model behind a colon, if what follows one is no path."""
    what, _, model = text.rpartition(":")
    return (what, model) if what and model and "/" not in model and not Path(text).exists() else (text, None)


def made_by(row: dict[str, Any]) -> list[str]:
    """The models in a row of samples."""
    return [name for name, value in row.items() if isinstance(value, dict) and "correct" in value]


def default(row: dict[str, Any], text: str) -> str:
    """GRPO's, or the only one."""
    known = made_by(row)
    if "grpo" in known or len(known) == 1:
        return "grpo" if "grpo" in known else known[0]
    raise InputError(text, got=f"models {', '.join(known)}", wanted="one of them", do=f"{text}:{known[-1]}")


def of_task(rows: list[dict[str, Any]], text: str, task: str | None) -> list[dict[str, Any]]:
    """The rows of one task: the one that is named, else the held-out problems, else the only one there is."""
    if not rows:
        raise InputError(text, got="no samples", wanted="the output of `posttrain evaluate`", do="run it there")
    known = list(dict.fromkeys(row.get("task", HELD_OUT) for row in rows))
    wanted = task or (HELD_OUT if HELD_OUT in known or len(known) > 1 else known[0])
    if wanted not in known:
        raise InputError(
            text, got=f"an evaluation on {', '.join(known)}", wanted=f"one on {wanted}", do=f"--task {known[0]}"
        )
    return [row for row in rows if row.get("task", HELD_OUT) == wanted]


def rows_of(what: str) -> Iterable[dict[str, Any]]:
    if (path := here(what)) is not None:
        return read_objects(path, RESTORE)
    return objects(of_revision(what).split("\n"), f"{what}: {SAMPLES}", "name another revision")


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
