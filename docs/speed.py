"""The table and the chart of docs/speed.md, from docs/data/speed.json, which `make bench` writes.

Writes  docs/plots/speed.svg, docs/data/speed.tsv, and what stands between the markers of docs/speed.md
Run     python docs/speed.py
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))
from speed import median, table  # noqa: E402

BEGIN, END = "<!-- measured -->", "<!-- end -->"
INK, GRID = "#57606a", "#d0d7de"
PHASES = {
    "generate": "#0969da",
    "reward": "#bf8700",
    "reference": "#8250df",
    "forward": "#1a7f37",
    "backward": "#cf222e",
    "other": "#8c959f",
}


def main() -> None:
    found = json.loads((DOCS / "data/speed.json").read_text(encoding="utf-8"))
    (DOCS / "data/speed.tsv").write_text(tsv(found["runs"]), encoding="utf-8")
    draw([run for run in found["runs"] if run["label"] == "embedded" and run["stage"] == "grpo"])
    page = DOCS / "speed.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    machine, gflops = found["machine"], found["gflops"]
    speed = ", ".join(f"{value:.0f} GFLOP/s on {count} thread(s)" for count, value in gflops.items())
    text = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.1f} as it began; products of "
    text += f"two matrices: {speed}.\n\n```text\n" + "\n".join(line.rstrip() for line in table(found)) + "\n```\n\n"
    text += "![Seconds a step by phase](plots/speed.svg)\n\nEvery step is in [data/speed.tsv](data/speed.tsv).\n"
    page.write_text(f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}", encoding="utf-8")


def tsv(runs: list[dict[str, Any]]) -> str:
    """A line for each step."""
    columns = ("step", *list(PHASES)[:-1], "tokens", "rss_mib")
    lines = ["\t".join(("label", "stage", "who", "cores", *columns))]
    for run in runs:
        names = [str(run[key]) for key in ("label", "stage", "who", "cores")]
        lines += ["\t".join([*names, *(f"{row.get(name, 0):.5g}" for name in columns)]) for row in run["steps"]]
    return "\n".join(lines) + "\n"


def draw(runs: list[dict[str, Any]]) -> None:
    """Seconds of a step by phase, a bar for each contender; colours that are legible on white and on black."""
    matplotlib.rcParams.update({"svg.hashsalt": "posttrain", "svg.fonttype": "none"})
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for place, (who, cores) in enumerate(dict.fromkeys((run["who"], run["cores"]) for run in runs)):
        mine = [run for run in runs if (run["who"], run["cores"]) == (who, cores)]
        seconds = {name: statistics.median(median(run["steps"], name) for run in mine) for name in PHASES}
        seconds["other"] = statistics.median(median(run["steps"], "step") for run in mine) - sum(seconds.values())
        left = 0.0
        for name, value in seconds.items():
            axes.barh(place, value, left=left, color=PHASES[name], height=0.6, label=None if place else name)
            left += value
        axes.text(left, place, f" {left:.2f}", va="center", color=INK)
    names = dict.fromkeys(f"{run['who']}, {run['cores']} core{'s' * (run['cores'] > 1)}" for run in runs)
    axes.set_yticks(range(len(names)), list(names), color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step of GRPO on the embedded recipe", color=INK)
    axes.tick_params(colors=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.legend(ncols=len(PHASES), loc="outside upper left", frameon=False, labelcolor=INK)
    figure.savefig(DOCS / "plots/speed.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
