"""Stage 5: one self-contained page: the claim, the curves, the same problems before and after GRPO.

Reads   data/prepared/manifest.json and results/{sft,grpo,evaluate}/; the `report` section
Writes  results/report.html
Run     posttrain report

Equal results give an equal page: it holds no date, no seconds and no path. Text of a model is escaped.
"""

import json

from posttrain import paths
from posttrain.outputs.manifest import beside, publish_files, read_jsonl
from posttrain.outputs.parents import require_out
from posttrain.params.schema import Params
from posttrain.reporting.charts import PLOTS, Plot, draw
from posttrain.reporting.page import (
    MODELS,
    NO_SCORES,
    metric_names,
    progress,
    read_curve,
    read_results,
    render,
    require_file,
)


def run(params: Params) -> None:
    """Render and publish results/report.html."""
    require_out(paths.PREPARED, "prepare")
    evaluation = read_results(paths.EVALUATE_RESULTS / "metrics.json", "evaluate")
    samples = read_jsonl(require_file(paths.EVALUATE_RESULTS / "samples.jsonl", "evaluate"))
    curves = {
        stage: read_curve(require_file(folder / "curve.tsv", stage))
        for stage, folder in (("sft", paths.SFT_RESULTS), ("grpo", paths.GRPO_RESULTS))
    }
    sft = read_results(paths.SFT_RESULTS / "metrics.json", "sft")
    rewards = tuple(name for name in curves["grpo"] if name.startswith("reward/") and name not in NO_SCORES)
    page = render(
        evaluation=evaluation,
        metrics=metric_names(evaluation["sft"]),
        data=json.loads((paths.PREPARED / "manifest.json").read_text(encoding="utf-8")),
        compared=[(name, label) for name, label in MODELS.items() if name in evaluation],
        sft=sft,
        adopted="tokens_seen" not in sft,
        progress=progress(curves["grpo"]),
        health=read_results(paths.GRPO_RESULTS / "health.json", "grpo"),
        rewards=rewards,
        plots=[
            {"title": plot.title, "svg": draw(plot, curves[plot.stage])}
            for plot in (PLOTS[0], Plot("GRPO: rewards", "grpo", rewards), *PLOTS[1:])
            if curves[plot.stage]["step"]
        ],
        samples=samples[: params.report.num_samples],
    )
    with beside(paths.REPORT) as out:
        (out / paths.REPORT.name).write_text(page, encoding="utf-8")
        publish_files(out, paths.REPORT.parent)
    gain = evaluation["gain"]
    print(f"report | {evaluation['verdict']}, pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    print(f"report | wrote {paths.REPORT} | next: posttrain gate, then open {paths.REPORT} in a browser")
