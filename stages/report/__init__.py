"""Stage 5: one self-contained page: the claim, the curves, the same problems before and after GRPO.

Reads   data/prepared/manifest.json and results/{sft,grpo,evaluate}/; the `report` section
Writes  results/report.html
Run     posttrain report

Equal results give an equal page: it holds no date, no seconds and no path. Text of a model is escaped.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import paths
from stages.errors import InputError
from stages.manifest import publish_files, read_jsonl, require_complete, scratch
from stages.params import Params

TEMPLATE = Path(__file__).with_name("report.html.jinja")
INK, GRID = "#57606a", "#d0d7de"
COLOURS = ("#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e", "#57606a", "#0550ae", "#9a6700")
NO_SCORES = ("reward/total", "reward/zero_std_frac", "reward/verifier_timeouts")

Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Plot:
    """Columns of a curve over its steps; `band` and `limit` mark what the tutorial calls healthy."""

    title: str
    stage: str
    columns: tuple[str, ...]
    band: tuple[float, float] | None = None
    limit: float | None = None


PLOTS = (
    Plot("SFT: loss per token", "sft", ("loss",)),
    Plot("GRPO: advantage/std (band: the tutorial's 0.2 to 0.4)", "grpo", ("advantage/std",), band=(0.2, 0.4)),
    Plot("GRPO: policy/kl_divergence (line: the tutorial's 0.05)", "grpo", ("policy/kl_divergence",), limit=0.05),
)


def run(params: Params) -> None:
    """Render and publish results/report.html."""
    require_complete(paths.PREPARED, "prepare")
    evaluation = read_results(paths.EVALUATE_RESULTS / "metrics.json", "evaluate")
    samples = read_jsonl(require_file(paths.EVALUATE_RESULTS / "samples.jsonl", "evaluate"))
    curves = {
        stage: read_curve(require_file(folder / "curve.tsv", stage))
        for stage, folder in (("sft", paths.SFT_RESULTS), ("grpo", paths.GRPO_RESULTS))
    }
    rewards = tuple(name for name in curves["grpo"] if name.startswith("reward/") and name not in NO_SCORES)
    page = render(
        evaluation=evaluation,
        metrics=metric_names(evaluation["sft"]),
        data=json.loads((paths.PREPARED / "manifest.json").read_text(encoding="utf-8")),
        sft=read_results(paths.SFT_RESULTS / "metrics.json", "sft"),
        progress=progress(curves["grpo"]),
        health=read_results(paths.GRPO_RESULTS / "health.json", "grpo"),
        rewards=rewards,
        plots=[
            {"title": plot.title, "svg": draw(plot, curves[plot.stage])}
            for plot in (PLOTS[0], Plot("GRPO: rewards", "grpo", rewards), *PLOTS[1:])
        ],
        samples=samples[: params.report.num_samples],
    )
    with scratch("report") as folder:
        out = folder / paths.REPORT.name
        out.write_text(page, encoding="utf-8")
        publish_files(out.parent, paths.REPORT.parent)
    gain = evaluation["gain"]
    print(f"report | {evaluation['verdict']}, pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    print(f"report | wrote {paths.REPORT} | next: posttrain gate, then open {paths.REPORT} in a browser")


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


def draw(plot: Plot, curve: Columns) -> str:
    """An SVG element with the same bytes for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "posttrain", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.add_subplot()
        if plot.band:
            axes.axhspan(*plot.band, color=GRID, alpha=0.5, linewidth=0)
        if plot.limit:
            axes.axhline(plot.limit, color="#cf222e", linewidth=1, linestyle="--")
        for colour, name in zip(COLOURS, plot.columns, strict=False):
            points = [(s, v) for s, v in zip(curve["step"], curve.get(name, []), strict=False) if v is not None]
            axes.plot(*zip(*points, strict=True) if points else ([], []), color=colour, linewidth=1.3, label=name)
        axes.set_xlabel("step", color=INK)
        axes.tick_params(colors=INK)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if len(plot.columns) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def render(**content: Any) -> str:
    """The page; every value is escaped but the SVGs, which are drawn here from numbers."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)
