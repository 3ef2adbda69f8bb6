"""results/report.html: one self-contained page. Text of a model is escaped."""

import json
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.reporting.charts import Columns

TEMPLATE = Path(__file__).with_name("report.html.jinja")


NO_SCORES = ("reward/total", "reward/zero_std_frac", "reward/verifier_timeouts")


MODELS = {"base": "base", "sft": "SFT", "grpo": "GRPO"}
"""Those that an evaluation can have, and what a person calls them."""


def require_file(path: Path, made_by: str) -> Path:
    """Raises: InputError if the file is missing."""
    if not path.is_file():
        raise InputError(
            str(path),
            got="no such file",
            wanted=f"the output of `posttrain {made_by}`",
            do=f"run `posttrain {made_by}` first, or `dvc repro`",
        )
    return path


def read_results(path: Path, made_by: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(require_file(path, made_by).read_text(encoding="utf-8"))
    return data


def read_curve(path: Path) -> Columns:
    """A TSV as columns; an empty cell, a step at which the quantity was not logged, is None."""
    head, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: [float(row[index]) if row[index] else None for row in rows] for index, name in enumerate(head)}


def metric_names(metrics: dict[str, float]) -> list[str]:
    """The rows of the evaluation's table: pass@1, which carries the claim, then the others by name."""
    names = [name for name in metrics if not name.startswith("pass@1_")]
    return sorted(names, key=lambda name: (name != "pass@1", name))


def progress(curve: Columns) -> list[dict[str, float | None]]:
    """The rows of the tutorial's monitoring table: near the start, in the middle, at the end.

    Each is a mean over a tenth of the run, because a single step of a few prompts says little.
    """
    count = len(curve["step"])
    width = max(1, count // 10)
    return [window_means(curve, start, start + width) for start in (0, (count - width) // 2, count - width)]


def window_means(curve: Columns, start: int, end: int) -> dict[str, float | None]:
    def mean(values: list[float | None]) -> float | None:
        numbers = [value for value in values[start:end] if value is not None]
        return sum(numbers) / len(numbers) if numbers else None

    return {**{name: mean(values) for name, values in curve.items()}, "step": curve["step"][end - 1]}


def render(**content: Any) -> str:
    """The page; every value is escaped but the SVGs, which are drawn here from numbers."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)
