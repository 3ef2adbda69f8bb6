"""Stage 5: one self-contained page: the claim, the curves, every problem before and after GRPO, what it was made from.

Reads   data/prepared and results/{sft,grpo,evaluate}/; all sections but `launch`
Writes  results/report.html; its figures (SVG, PNG) and tables (Markdown, LaTeX) in results/report/
Run     posttrain report

Equal results give an equal page: it holds no date, no seconds, no commit and no path. Text of a model is escaped.
"""

from posttrain import paths
from posttrain.outputs.manifest import beside, publish, publish_files
from posttrain.outputs.parents import require_out
from posttrain.params.schema import Params
from posttrain.reporting.page import files, render
from posttrain.reporting.provenance import runs
from posttrain.reporting.results import read


def run(params: Params) -> None:
    """Render and publish results/report.html and results/report/."""
    require_out(paths.PREPARED, "prepare")
    require_out(paths.EVALUATE_RESULTS, "evaluate")
    results = read(params)
    made = files(results)
    page = render(results, made)
    with beside(paths.REPORT_FILES) as out:
        for name, content in made.items():
            (out / name).write_bytes(content)
        publish(out, paths.REPORT_FILES, {"stage": "report"})
    with beside(paths.REPORT) as out:
        # a half character, which a model can write, has no bytes; as a reference it is shown as the sign for one
        (out / paths.REPORT.name).write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
        publish_files(out, paths.REPORT.parent)
    gain, verdict = results.evaluation["gain"], results.evaluation["verdict"]
    for line in runs():
        print(f"report | {line}")
    print(f"report | {verdict}, pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    print(f"report | wrote {paths.REPORT} | next: posttrain gate, then open {paths.REPORT} in a browser")
