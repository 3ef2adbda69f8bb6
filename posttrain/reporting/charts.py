"""Which curves the report draws, what counts as healthy in each, and what happened at which step."""

import math
from dataclasses import dataclass
from typing import Any

from posttrain.reporting.results import Columns, Results

WINDOW = 10
"""Rows of a mean, as the health monitor's."""
FEW = 8 * WINDOW
"""Rows under which a curve is drawn as it is."""

NO_SCORES = ("reward/total", "reward/zero_std_frac", "reward/verifier_timeouts")


@dataclass(frozen=True)
class Chart:
    """Columns of a curve over its steps; `band` and `limit` mark what the tutorial calls healthy."""

    name: str
    title: str
    stage: str
    columns: tuple[str, ...]
    note: str = ""
    band: tuple[float, float] | None = None
    limit: float | None = None


CHARTS = (
    Chart("sft-loss", "SFT: loss per token", "sft", ("loss",)),
    Chart("sft-accuracy", "SFT: next tokens guessed right", "sft", ("token_accuracy",)),
    Chart("grpo-rewards", "GRPO: rewards", "grpo", ()),
    Chart(
        "grpo-advantage",
        "GRPO: spread of the advantages",
        "grpo",
        ("advantage/std",),
        "Shaded: the tutorial's healthy 0.2 to 0.4.",
        band=(0.2, 0.4),
    ),
    Chart(
        "grpo-kl",
        "GRPO: KL divergence to the SFT model",
        "grpo",
        ("policy/kl_divergence",),
        "Dashed: the tutorial's limit of 0.05.",
        limit=0.05,
    ),
    Chart("grpo-entropy", "GRPO: entropy of the policy, nats a token", "grpo", ("policy/entropy",)),
    Chart("grpo-length", "GRPO: tokens of a completion", "grpo", ("completions/mean_length",)),
    Chart(
        "grpo-shares",
        "GRPO: shares to watch",
        "grpo",
        ("completions/truncated_frac", "reward/zero_std_frac", "policy/clip_frac", "reward/verifier_timeouts"),
        "Completions cut off, groups with equal rewards, tokens clipped, completions without a verdict.",
    ),
    Chart("grpo-gradient", "GRPO: norm of the gradient", "grpo", ("grad_norm",)),
)


def reward_columns(curve: Columns) -> tuple[str, ...]:
    """The scores of each reward function, whichever there are."""
    return tuple(name for name in curve if name.startswith("reward/") and name not in NO_SCORES)


def charts(results: Results) -> list[tuple[Chart, Columns]]:
    """The charts that have something to show, with their columns."""
    found = []
    for chart in CHARTS:
        curve = results.curves[chart.stage]
        names = chart.columns or (*reward_columns(curve), "reward/total", "probe/accuracy")
        columns = {name: curve[name] for name in names if any(value is not None for value in curve.get(name, []))}
        if columns:
            found.append((chart, {"step": curve["step"], **columns}))
    return found


def events(health: dict[str, Any]) -> list[dict[str, Any]]:
    """What the health monitor said or did, by step, in words."""
    found = [
        {"step": item["step"], "action": item["action"], "text": f"{item['rule']} ({item['action']}): {item['saw']}"}
        for item in health["findings"]
    ]
    found += [
        {
            "step": item["step"],
            "action": "rollback",
            "text": f"{item['rule']} took the weights back to step {item['to_step']}",
        }
        for item in health["rollbacks"]
    ]
    steps = health["steps"]
    if steps["published"] != steps["trained"]:
        found.append({"step": steps["published"], "action": "published", "text": "the published weights"})
    return sorted(found, key=lambda item: (item["step"], item["text"]))


def means(values: list[float | None]) -> list[float | None]:
    """The mean of each value and those before it, WINDOW in all where there are so many; short curves as they are."""
    if len(values) < FEW:
        return [finite(value) for value in values]
    found: list[float | None] = []
    for end in range(1, len(values) + 1):
        numbers = [number for value in values[max(0, end - WINDOW) : end] if (number := finite(value)) is not None]
        found.append(None if finite(values[end - 1]) is None else math.fsum(numbers) / len(numbers))
    return found


def finite(value: float | None) -> float | None:
    """The value, None for what is no finite number."""
    return value if value is not None and math.isfinite(value) else None


def for_page(results: Results) -> dict[str, Any]:
    """The curves as the page draws them: JSON without NaN."""
    return {
        "events": events(results.health),
        "charts": [
            {
                "name": chart.name,
                "stage": chart.stage,
                "band": chart.band,
                "limit": chart.limit,
                "columns": {name: [finite(value) for value in values] for name, values in columns.items()},
                "means": {name: means(values) for name, values in columns.items() if name != "step"},
            }
            for chart, columns in charts(results)
        ],
    }


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
