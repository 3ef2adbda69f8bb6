"""The tables and plots of docs/tutorial.md and gsm8k.md, from docs/data/*.tsv, and that of the README, from results/.

python docs/plots.py                    draws docs/plots/*.svg and prints the tables
python docs/plots.py add SWEEP VALUE    first takes the run that results/ holds into docs/data/

Equal data give equal bytes.
"""

import io
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

DATA, PLOTS = Path(__file__).with_name("data"), Path(__file__).with_name("plots")
RESULTS = Path("results")
KL = "policy/kl_divergence"
COLUMNS = ("reward/accuracy", "reward/format", "reward/total", "advantage/std", KL)
EVALUATION = ("pass@1", "pass@1_low", "pass@1_high", "format")

WINDOW = 10
"""Rows in a mean, as the health monitor's."""
INK, GRID = "#57606a", "#d0d7de"
COLOURS = ("#cf222e", "#bf8700", "#0969da", "#1a7f37")


@dataclass(frozen=True)
class Sweep:
    label: str
    panels: tuple[str, ...] = ()
    """Columns to draw; none for a sweep that is only tabulated."""


SWEEPS = {
    "learning_rate": Sweep("learning rate", ("reward/total", KL)),
    "num_generations": Sweep("num_generations", ("reward/accuracy", "advantage/std")),
    "num_generations_untrained": Sweep("num_generations, policy at rest"),
    "format_weight": Sweep("format weight", ("reward/accuracy", "reward/format")),
    "gsm8k": Sweep("run", ("reward/accuracy", "advantage/std")),  # docs/gsm8k.md
}
BANDS = {"advantage/std": (0.2, 0.4)}
LIMITS = {KL: 0.05}

Table = dict[str, list[dict[str, float]]]
"""Rows by the value that was swept."""


def read(path: Path, key: str) -> Table:
    """A TSV with the swept value first; empty cells are left out."""
    table: Table = {}
    if path.is_file():
        head, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            cells = dict(zip(head, row, strict=True))
            value = cells.pop(key)
            table.setdefault(value, []).append({name: float(cell) for name, cell in cells.items() if cell})
    return table


def write(path: Path, key: str, names: tuple[str, ...], table: Table) -> None:
    rows = [
        [value, *(f"{row[name]:.6g}" if name in row else "" for name in names)]
        for value in sorted(table, key=float)
        for row in table[value]
    ]
    path.write_text("".join("\t".join(row) + "\n" for row in [[key, *names], *rows]), encoding="utf-8")


def add(sweep: str, value: str) -> None:
    """The run that `results/` holds becomes the rows of `value`."""
    curve, runs = DATA / f"{sweep}.tsv", DATA / f"{sweep}.runs.tsv"
    head, *rows = [line.split("\t") for line in (RESULTS / "grpo/curve.tsv").read_text(encoding="utf-8").splitlines()]
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    table = read(curve, sweep) | {
        value: [{name: float(row[name]) for name in ("step", *COLUMNS) if row.get(name)} for row in cells]
    }
    write(curve, sweep, ("step", *COLUMNS), table)
    evaluated = RESULTS / "evaluate/metrics.json"
    # results/ may still hold the evaluation of an earlier run
    if evaluated.is_file() and evaluated.stat().st_mtime >= (RESULTS / "grpo/curve.tsv").stat().st_mtime:
        grpo = json.loads(evaluated.read_text(encoding="utf-8"))["grpo"]
        row = {name: grpo[name] for name in EVALUATION}
        write(runs, sweep, EVALUATION, read(runs, sweep) | {value: [row]})


def mean(rows: list[dict[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


def trailing(rows: list[dict[str, float]], name: str) -> list[float]:
    """The mean of each row and those before it, WINDOW in all where there are so many."""
    return [mean(rows[max(0, end - WINDOW) : end], name) for end in range(1, len(rows) + 1)]


def tabulate(sweep: str) -> str:
    """Markdown: one row a run."""
    table, runs = read(DATA / f"{sweep}.tsv", sweep), read(DATA / f"{sweep}.runs.tsv", sweep)
    lines = [
        f"| {SWEEPS[sweep].label} | accuracy, steps 1-10 | last 10 | format, last 10 | advantage/std, all steps "
        "| steps 1-10 | last 10 | KL, highest mean of 10 | held-out pass@1 |",
        "|" + "---|" * 9,
    ]
    for value, rows in table.items():
        first, last = rows[:WINDOW], rows[-WINDOW:]
        cells = [
            mean(first, "reward/accuracy"),
            mean(last, "reward/accuracy"),
            mean(last, "reward/format"),
            mean(rows, "advantage/std"),
            mean(first, "advantage/std"),
            mean(last, "advantage/std"),
            max(trailing(rows, KL)) if KL in rows[0] else math.nan,  # not measured with `beta: 0`
        ]
        solved = [f"{r['pass@1']:.3f} [{r['pass@1_low']:.3f}, {r['pass@1_high']:.3f}]" for r in runs.get(value, [])]
        numbers = " | ".join("–" if math.isnan(cell) else f"{cell:.3f}" for cell in cells)
        lines.append(f"| {value} | {numbers} | {(solved or ['–'])[0]} |")
    return "\n".join(lines)


def draw(sweep: str) -> str:
    """SVG: one panel a column, one line a run: means over WINDOW steps, with the steps themselves faintly behind."""
    table, panels = read(DATA / f"{sweep}.tsv", sweep), SWEEPS[sweep].panels
    with matplotlib.rc_context({"svg.hashsalt": "posttrain", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8.4, 3.0))
        figure.subplots_adjust(left=0.06, right=0.985, top=0.88, bottom=0.16, wspace=0.16)
        for axes, name in zip(figure.subplots(1, len(panels)), panels, strict=True):
            if name in BANDS:
                axes.axhspan(*BANDS[name], color=GRID, alpha=0.5, linewidth=0)
            if name in LIMITS:
                axes.axhline(LIMITS[name], color=INK, linewidth=1, linestyle="--")
            for colour, (value, rows) in zip(COLOURS, table.items(), strict=False):
                steps = [row["step"] for row in rows]
                axes.plot(steps, [row[name] for row in rows], color=colour, linewidth=0.6, alpha=0.3)
                axes.plot(steps, trailing(rows, name), color=colour, linewidth=1.5, label=value)
            axes.set_title(name, color=INK, fontsize=9)
            axes.set_xlabel("step", color=INK)
            axes.tick_params(colors=INK)
            axes.grid(color=GRID, linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, labelcolor=INK, title=SWEEPS[sweep].label, title_fontsize=8, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def picture(results: Path = RESULTS) -> str:
    """SVG of the README: the accuracy of GRPO's completions while it trains, and pass@1 before and after."""
    head, *rows = [line.split("\t") for line in (results / "grpo/curve.tsv").read_text(encoding="utf-8").splitlines()]
    curve = [{name: float(cell) for name, cell in zip(head, row, strict=True) if cell} for row in rows]
    metrics = json.loads((results / "evaluate.json").read_text(encoding="utf-8"))  # git has it, without a run
    with matplotlib.rc_context({"svg.hashsalt": "posttrain", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8.4, 2.8))
        figure.subplots_adjust(left=0.06, right=0.985, top=0.88, bottom=0.16, wspace=0.16)
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        steps = [row["step"] for row in curve]
        left.plot(steps, [row["reward/accuracy"] for row in curve], color=COLOURS[2], linewidth=0.6, alpha=0.4)
        left.plot(steps, trailing(curve, "reward/accuracy"), color=COLOURS[2], linewidth=1.8)
        left.set_title("reward/accuracy while GRPO trains", color=INK, fontsize=9)
        left.set_xlabel("step", color=INK)
        for place, (name, colour) in enumerate((("sft", COLOURS[1]), ("grpo", COLOURS[3]))):
            right.bar(place, metrics[name], color=colour, width=0.6)
            right.annotate(f"{metrics[name]:.3f}", (place, 0.04), color="white", ha="center", fontsize=10)
        bounds = [[metrics["gain"] - metrics["gain_low"]], [metrics["gain_high"] - metrics["gain"]]]
        right.errorbar(1, metrics["grpo"], bounds, color=INK, capsize=4, linewidth=1.2)
        right.set_xticks((0, 1), ("after SFT", "after GRPO"))
        right.set_title("held-out pass@1, interval of the gain", color=INK, fontsize=9)
        for axes in (left, right):
            axes.set_ylim(0, 1.02)
            axes.tick_params(colors=INK)
            axes.grid(color=GRID, linewidth=0.5, axis="y")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def main(arguments: list[str]) -> None:
    if arguments:
        if len(arguments) != 3 or arguments[0] != "add" or arguments[1] not in SWEEPS:
            sys.exit(f"{__doc__}\nSWEEP is one of {', '.join(SWEEPS)}")
        add(arguments[1], arguments[2])
    for sweep in SWEEPS:
        if (DATA / f"{sweep}.tsv").is_file():
            print(f"\n{sweep}\n\n{tabulate(sweep)}")
            if SWEEPS[sweep].panels:
                (PLOTS / f"{sweep}.svg").write_text(draw(sweep), encoding="utf-8")
    (PLOTS / "grpo.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
