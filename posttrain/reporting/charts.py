"""The charts of the report, as SVG."""

import io
from dataclasses import dataclass

INK, GRID = "#57606a", "#d0d7de"


COLOURS = ("#0969da", "#bf8700", "#1a7f37", "#8250df", "#cf222e", "#57606a", "#0550ae", "#9a6700")


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
