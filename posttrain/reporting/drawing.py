"""The report's figures by matplotlib, for paper, and for a page that runs no script. Equal numbers give equal bytes."""

import io
import re
from typing import Any

from posttrain.reporting.charts import FEW, Chart, events, means
from posttrain.reporting.lengths import Lengths
from posttrain.reporting.results import Columns, Results

INK, GRID, LIMIT = "#57606a", "#d0d7de", "#cf222e"
COLOURS = ("#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e", "#57606b", "#0a7ea4", "#9a6701")
MODEL_COLOURS = {"base": "#57606b", "sft": "#bf8700", "grpo": "#1a7f37"}
VARIABLES = {INK: "soft", GRID: "line", **{colour: f"c{number}" for number, colour in enumerate(COLOURS, 1)}}
"""Colours of the page that take the place of a figure's, so that it can be read in the dark."""

STYLE = {"svg.hashsalt": "posttrain", "svg.fonttype": "none", "font.size": 9, "axes.edgecolor": INK}
DPI = 200


def figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        axes = made.add_subplot()
    axes.tick_params(colors=INK)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def curve(chart: Chart, columns: Columns, health: dict[str, Any]) -> Any:
    """Lines over steps: means over rows, with the rows themselves faintly behind where there are many."""
    made, axes = figure(6.4, 2.6)
    if chart.band:
        axes.axhspan(*chart.band, color=COLOURS[2], alpha=0.12, linewidth=0)
    if chart.limit:
        axes.axhline(chart.limit, color=LIMIT, linewidth=1, linestyle="--")
    names = [name for name in columns if name != "step"]
    for number, name in enumerate(names):
        colour, smooth = COLOURS[number % len(COLOURS)], means(columns[name])
        if len(smooth) >= FEW:
            axes.plot(*points(columns["step"], columns[name]), color=colour, linewidth=0.6, alpha=0.3)
        axes.plot(*points(columns["step"], smooth), color=colour, linewidth=1.5, label=name)
    for event in events(health) if chart.stage == "grpo" else []:
        axes.axvline(event["step"], color=LIMIT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("step", color=INK)
    if len(names) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return made


def points(steps: list[float | None], values: list[float | None]) -> tuple[list[float], list[float]]:
    found = [(step, value) for step, value in zip(steps, values, strict=True) if step is not None and value is not None]
    return [step for step, _ in found], [value for _, value in found]


def scores(results: Results) -> Any:
    """pass@1 of each model with its interval."""
    rows = {results.models[name]: (results.evaluation[name], MODEL_COLOURS[name]) for name in results.models}
    values = {label: (row["pass@1"], row["pass@1_low"], row["pass@1_high"]) for label, (row, _) in rows.items()}
    made, axes = intervals(values, [colour for _, colour in rows.values()], "{:.3f}")
    most = min(1.0, 1.25 * max(high for _, _, high in values.values()))
    axes.set_xlim(-0.04 * most, 1.04 * most)
    axes.set_xlabel("pass@1", color=INK)
    return made


def gains(results: Results) -> Any:
    """The gains with their intervals beside zero; shaded, what so few problems cannot tell."""
    found = {"SFT − base": results.evaluation.get("sft_gain"), "GRPO − SFT": results.evaluation["gain"]}
    values = {label: (gain["mean"], gain["low"], gain["high"]) for label, gain in found.items() if gain}
    made, axes = intervals(values, [COLOURS[0]] * len(values), "{:+.3f}")
    detectable = results.evaluation["gain"].get("detectable")
    if detectable is not None:
        axes.axvspan(-detectable, detectable, color=GRID, alpha=0.6, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel("gain in pass@1", color=INK)
    return made


def intervals(values: dict[str, tuple[float, float, float]], colours: list[str], form: str) -> tuple[Any, Any]:
    """A forest plot: one line a row, the first on top."""
    made, axes = figure(4.6, 0.75 + 0.36 * len(values))
    for place, ((mean, low, high), colour) in enumerate(zip(values.values(), colours, strict=True)):
        mark(axes, len(values) - 1 - place, mean, low, high, colour, form)
    axes.set_yticks(range(len(values)), list(reversed(values)))
    axes.set_ylim(-0.6, len(values) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    return made, axes


def mark(axes: Any, place: int, mean: float, low: float, high: float, colour: str, form: str) -> None:
    """A point with its interval, and the number above it."""
    axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([mean], [place], color=colour, marker="o", markersize=6)
    axes.annotate(form.format(mean), (mean, place), (0, 6), textcoords="offset points", color=INK, ha="center")


def lengths(found: Lengths, model: str) -> Any:
    """A histogram of a model's completions: right, wrong, and cut off, one on the other; as high for every model."""
    made, axes = figure(5.2, 2.4)
    below = [0] * len(found.centres)
    for kind, colour in (("right", COLOURS[2]), ("wrong", COLOURS[1]), ("cut off", COLOURS[4])):
        counts = found.counts[model][kind]
        if any(counts):
            axes.bar(found.centres, counts, found.width * 0.94, below, color=colour, label=kind, linewidth=0)
        below = [under + count for under, count in zip(below, counts, strict=True)]
    axes.set_ylim(0, 1.05 * (found.highest or 1))
    axes.set_xlabel(f"{found.unit} of a completion", color=INK)
    axes.set_ylabel("completions", color=INK)
    axes.grid(visible=False, axis="x")
    if any(below):
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))
    return made


def saved(made: Any, form: str) -> bytes:
    """The figure as the bytes of an SVG or PNG file, without a date."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        out = io.BytesIO()
        dated = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        made.savefig(out, format=form, dpi=DPI, transparent=form == "svg", metadata=dated)
    return out.getvalue()


def for_page(svg: bytes) -> str:
    """An SVG element whose colours are the page's, with no style sheet of its own."""
    text = svg.decode()
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    return text[text.index("<svg") :].rstrip()
