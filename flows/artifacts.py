"""What a person sees of a run in Prefect: progress, tables, curves, a link to the report.

Reads   results/*/metrics.json, results/*/curve.tsv of the stages that the run brought up to date, and of no others
Writes  artifacts of the flow run or task run that it is called from
Run     show(runs, Path.cwd(), None)

Numbers and names alone; what models wrote is in the report, which escapes it.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.stage_run import StageRun
from posttrain.errors import InputError
from posttrain.outputs.json_files import RESTORE, read_object
from posttrain.paths import EVALUATE_RESULTS, GRPO_RESULTS, SFT_RESULTS
from posttrain.reporting.results import read_curve

PROGRESS_EVERY_S = 5.0
BARS = "▁▂▃▄▅▆▇█"
SPARKLINE = 40
CURVES = {
    SFT_RESULTS: ("loss", "token_accuracy"),
    GRPO_RESULTS: ("reward/accuracy", "reward/total", "advantage/std", "policy/kl_divergence"),
}


def with_progress(stage: str, log: "logging.LoggerAdapter[logging.Logger] | logging.Logger") -> Callable[[str], None]:
    """Log each line, and show those that count steps as the stage's progress, one every PROGRESS_EVERY_S."""
    counts = re.compile(rf"{stage} (\d+)/(\d+) \| (.*)")
    artifact: UUID | None = None
    due = 0.0

    def heard(line: str) -> None:
        nonlocal artifact, due
        log.info(line)
        found = counts.match(line)
        if found is None or (time.monotonic() < due and found[1] != found[2]):
            return
        due = time.monotonic() + PROGRESS_EVERY_S
        try:
            artifact = tell(artifact, f"posttrain-{stage}", 100 * int(found[1]) / int(found[2]), line)
        except httpx.HTTPError as error:  # of a server that is away for a moment; training is not
            log.warning(f"progress not shown: {error!r}")

    return heard


def tell(artifact: UUID | None, key: str, percent: float, line: str) -> UUID:
    if artifact is not None:
        update_progress_artifact(artifact, percent, line)
        return artifact
    created = create_progress_artifact(percent, key=key, description=line)
    assert isinstance(created, UUID)
    return created


def show(runs: Sequence[StageRun], root: Path, report: Path | None) -> None:
    """The artifacts at the end of a run whose stages ran in `root`; `report` is where their page will stay."""
    stages = [{"stage": run.stage, "outcome": run.outcome, "seconds": round(run.seconds, 1)} for run in runs]
    create_table_artifact(stages, key="posttrain-stages", description="what each stage did")
    if metrics := metrics_table(runs, root):
        create_table_artifact(metrics, key="posttrain-metrics", description="results/*/metrics.json")
    create_markdown_artifact(summary(runs, root), key="posttrain", description="what ran, and what it came to")
    if report is not None:
        create_link_artifact(report.absolute().as_uri(), "report.html", key="posttrain-report", description=str(report))


def metrics_table(runs: Sequence[StageRun], root: Path) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        path = root / EVALUATE_RESULTS.parent / run.stage / "metrics.json"
        if path.is_file():
            found = flat(read_object(path, RESTORE))
            rows += [{"stage": run.stage, "metric": name, "value": value} for name, value in found.items()]
    return rows


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def summary(runs: Sequence[StageRun], root: Path) -> str:
    """Markdown of what ran, the verdict and the curves, each only if its stage is one of the runs."""
    rows = [f"| {run.stage} | {run.outcome} | {run.seconds:.0f} |" for run in runs]
    parts = ["\n".join(["| stage | outcome | seconds |", "|---|---|---:|", *rows])]
    names = {run.stage for run in runs}
    path = root / EVALUATE_RESULTS / "metrics.json"
    if EVALUATE_RESULTS.name in names and path.is_file():
        parts.append(verdict(read_object(path, RESTORE)))
    if drawn := [
        row for folder, wanted in CURVES.items() if folder.name in names for row in curves(root, folder, wanted)
    ]:
        parts.append("\n".join(["| curve | first | last | |", "|---|---:|---:|---|", *drawn]))
    return "\n\n".join(parts)


def verdict(metrics: dict[str, Any]) -> str:
    try:
        before, after = metrics["sft"]["pass@1"], metrics["grpo"]["pass@1"]
        line = f"**{metrics['verdict']}**: pass@1 {before:.3f} after SFT, {after:.3f} after GRPO"
        if not (gain := metrics.get("gain")):
            return line
        return f"{line}; gain {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    except (KeyError, TypeError, ValueError) as error:
        where, got = str(EVALUATE_RESULTS / "metrics.json"), f"metrics of another form: {error!r}"
        raise InputError(where, got=got, wanted="those of `posttrain evaluate`", do=RESTORE) from None


def curves(root: Path, folder: Path, wanted: Sequence[str]) -> list[str]:
    """A row for each wanted column of a curve that is there and has numbers."""
    path = root / folder / "curve.tsv"
    if not path.is_file():
        return []
    columns = read_curve(path, folder.name)
    found = {name: [value for value in columns.get(name, []) if value is not None] for name in wanted}
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in found.items()}
    return [
        f"| {folder.name} {name} | {values[0]:.4g} | {values[-1]:.4g} | {sparkline(values)} |"
        for name, values in finite.items()
        if values
    ]


def sparkline(values: Sequence[float]) -> str:
    """At most SPARKLINE bars from the lowest value to the highest; of more values, the means of equal stretches."""
    width = min(SPARKLINE, len(values))
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(BARS[round((mean - low) / ((high - low) or 1) * (len(BARS) - 1))] for mean in means)
