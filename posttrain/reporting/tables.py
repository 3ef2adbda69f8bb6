"""Tables of the report: for the page, for Markdown and for LaTeX."""

from dataclasses import dataclass
from typing import Any

from posttrain.reporting.charts import progress, reward_columns
from posttrain.reporting.lengths import Lengths
from posttrain.reporting.results import Results

OUTCOME_NAMES = {
    "gained": "wrong → right",
    "lost": "right → wrong",
    "right": "right in both",
    "wrong": "wrong in both",
    "more": "more samples right",
    "fewer": "fewer samples right",
}
TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"→": r"$\rightarrow$", "–": "--", "−": "$-$"},
}
FIRST = ("name", "id", "row", "problem")
"""Columns that say what a row is of, wherever a file has them."""
MARKDOWN = {"|": r"\|", "<": "&lt;", "&": "&amp;", "\n": " "}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the rows."""

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        marks = str.maketrans(MARKDOWN)
        return "".join("| " + " | ".join(cell.translate(marks) for cell in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """A `tabular` with the rules of the booktabs package."""
        marks = str.maketrans(TEX)
        head, *rows = [" & ".join(cell.translate(marks) for cell in line) + r" \\" for line in [self.head, *self.rows]]
        begin = rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}"
        lines = [f"% {self.title}", begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
        return "\n".join(lines) + "\n"


def tables(results: Results, transitions: list[dict[str, Any]], found: Lengths) -> list[Table]:
    return [
        evaluation(results),
        outcomes(results, transitions),
        lengths(results, found),
        training(results),
        *([tasks(results)] if results.evaluation.get("tasks") else []),
    ]


def metric_names(metrics: dict[str, Any]) -> list[str]:
    """The rows of the evaluation's table: pass@1, which carries the claim, then the other numbers by name."""
    names = [name for name, value in metrics.items() if number(value) and not name.startswith("pass@1_")]
    return sorted(names, key=lambda name: (name != "pass@1", name))


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def evaluation(results: Results) -> Table:
    models = results.models
    names = metric_names(results.evaluation["sft"])
    rows = [[name, *(metric(results.evaluation[model], name) for model in models)] for name in names]
    return Table("evaluation", "Held-out evaluation", ["metric", *models.values()], rows)


def tasks(results: Results) -> Table:
    """pass@1 of each model on each further task, and the gain of the last over the one before it."""
    models, found = results.models, results.evaluation["tasks"]
    rows = [
        [name, *(metric(block.get(model, {}), "pass@1") for model in models), last_gain(block)]
        for name, block in found.items()
    ]
    return Table("tasks", "Further tasks, pass@1", ["task", *models.values(), "last gain"], rows)


def last_gain(block: dict[str, Any]) -> str:
    gains = block.get("gains")
    return "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gains[-1]) if gains else "–"


def metric(row: dict[str, Any], name: str) -> str:
    value: Any = row.get(name)
    if not number(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    shown = f"{value:.3f}" if value < 100 else f"{value:.1f}"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{shown} [{low:.3f}, {high:.3f}]" if number(low) and number(high) else shown


def outcomes(results: Results, transitions: list[dict[str, Any]]) -> Table:
    models = results.models
    head = ["problems", *(f"{models[row['before']]} → {models[row['after']]}" for row in transitions)]
    rows = [[label, *(f"{row[name]:,}" for row in transitions)] for name, label in OUTCOME_NAMES.items()]
    return Table("outcomes", "What changed", head, rows)


def lengths(results: Results, found: Lengths) -> Table:
    head = ["completions", "count", "mean", "median", "p95"]
    rows = [
        [f"{label}, {kind}", *(cell(row[name]) for name in ("count", "mean", "median", "p95"))]
        for model, label in results.models.items()
        for kind, row in found.rows[model].items()
        if row["count"]
    ]
    return Table("lengths", f"Length of a completion, {found.unit}", head, rows)


def cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def training(results: Results) -> Table:
    curve = results.curves["grpo"]
    named = ("reward/total", "advantage/mean", "advantage/std", "policy/kl_divergence", "completions/mean_length")
    columns = progress(curve)
    rows = [
        [name, *("–" if row[name] is None else f"{row[name]:.4f}" for row in columns)]
        for name in (*reward_columns(curve), *(name for name in named if name in curve))
    ]
    head = ["up to step", *(f"{row['step']:.0f}" for row in columns)]
    return Table("training", "While GRPO trained, means over a tenth of the run", head, rows)


def grid(value: Any) -> Table | None:
    """A table of like things, a row each: a list of flat mappings, or a mapping to them. None for anything else."""
    named = isinstance(value, dict)
    items = list(value.values()) if named else value if isinstance(value, list) else []
    if not items or not all(isinstance(item, dict) and item and all(map(flat, item.values())) for item in items):
        return None
    keys = list(dict.fromkeys(key for item in items for key in item))
    head = [key for key in FIRST if key in keys] + [key for key in keys if key not in FIRST]
    rows = [[scalar(item.get(key)) for key in head] for item in items]
    if named:
        head, rows = ["", *head], [[name, *row] for name, row in zip(value, rows, strict=True)]
    return Table("", "", head, rows)


def flat(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def scalar(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if number(value) else str(value)
