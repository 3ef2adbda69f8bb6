"""The report: what it says, that it escapes a model's text, that equal results give equal bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain import paths
from posttrain.errors import InputError
from posttrain.outputs.manifest import publish, write_json, write_jsonl
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.reporting import charts as reporting_charts
from posttrain.reporting import page as reporting_page
from stages import report

ROOT = Path(__file__).parents[2]
HOSTILE = "<think>\n<script>alert(1)</script></pre>\n</think>\n<answer>\n\x1b[31mx = 5\n</answer>"


def model_metrics(pass_at_1: float) -> dict[str, Any]:
    return {
        "pass@1": pass_at_1,
        "pass@1_low": pass_at_1 - 0.05,
        "pass@1_high": pass_at_1 + 0.05,
        "format": 0.99,
        "finished": 1.0,
        "lighteval_differs": 0,
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A project in which every stage but the report has run."""
    monkeypatch.chdir(tmp_path)
    prepared = tmp_path / "scratch"
    prepared.mkdir()
    publish(
        prepared, paths.PREPARED, {"stage": "prepare", "rows": {"sft": 8, "train": 4, "test": 2}, "dropped": {"odd": 3}}
    )
    write_json(paths.SFT_RESULTS / "metrics.json", {"parameters": 1234567, "tokens_seen": 1000})
    (paths.SFT_RESULTS / "curve.tsv").write_text("step\tloss\n1\t2.5\n2\t1.5\n")
    paths.GRPO_RESULTS.mkdir(parents=True)
    head = [
        "step",
        "reward/accuracy",
        "reward/format",
        "reward/tag_count",
        "reward/total",
        "advantage/mean",
        "advantage/std",
        "policy/kl_divergence",
    ]
    rows = [[str(step), str(step / 20), "1", "1", "0.5", "0", "0.3", "0.01"] for step in range(1, 21)]
    (paths.GRPO_RESULTS / "curve.tsv").write_text("\n".join("\t".join(row) for row in [head, *rows]) + "\n")
    healthy = {"asked": 20, "trained": 20, "published": 20}
    health = {"steps": healthy, "stopped_by": None, "probe": [], "rollbacks": [], "findings": []}
    write_json(paths.GRPO_RESULTS / "health.json", health)
    evaluation = {
        "sft": model_metrics(0.45),
        "grpo": model_metrics(0.82),
        "gain": {"mean": 0.37, "low": 0.3, "high": 0.44, "p_value": 0.0001, "detectable": 0.1},
        "verdict": "improved",
        "gate": {"min_gain": 0.2, "passed": True},
        "problems": 2,
        "samples_per_problem": 2,
    }
    write_json(paths.EVALUATE_RESULTS / "metrics.json", evaluation)
    sample = {"completions": [HOSTILE, HOSTILE], "correct": [0.0, 1.0], "finished": [True, True]}
    write_jsonl(
        paths.EVALUATE_RESULTS / "samples.jsonl",
        [{"id": "a", "problem": "Solve: <b>x</b>", "answer": "x = 5", "sft": sample, "grpo": sample}],
    )
    return load_params(ROOT / "params.yaml")


def test_the_page_states_the_claim_with_its_interval(results: Params) -> None:
    report.run(results)
    page = paths.REPORT.read_text()
    assert "GRPO improved the model" in page
    assert "+0.370" in page
    assert "+0.300" in page
    assert "0.820&nbsp;[0.770, 0.870]" in page
    assert "The gate of +0.2\nheld." in page
    assert "3 rows left out: odd." in page
    assert page.count("<svg") == len(reporting_charts.PLOTS) + 1  # and the rewards, whichever there are


def test_what_the_health_monitor_said_is_on_the_page(results: Params) -> None:
    report.run(results)
    assert "No rule of the health monitor had anything to say." in paths.REPORT.read_text()
    finding = {"rule": "truncation", "action": "stop", "step": 14, "saw": "60%", "why": "Because.", "do": "Raise it."}
    outcome = {
        "steps": {"asked": 20, "trained": 14, "published": 10},
        "stopped_by": "truncation",
        "probe": [{"step": 10, "accuracy": 0.5}],
        "rollbacks": [{"rule": "kl_divergence", "step": 9, "to_step": 3, "learning_rate": 5e-05}],
        "findings": [finding],
    }
    write_json(paths.GRPO_RESULTS / "health.json", outcome)
    report.run(results)
    page = " ".join(paths.REPORT.read_text().split())
    assert "Stopped after 14 of 20 steps by the rule <code>truncation</code>." in page
    assert "The published weights are those of step 10 of 14." in page
    assert "After step 9 <code>kl_divergence</code> took the weights back to step 3" in page
    assert "Step 14, <code>truncation</code> (stop): 60%. Because. Raise it." in page
    assert "No rule of the health monitor" not in page


def test_a_run_that_moved_few_weights_says_so_on_the_page(results: Params) -> None:
    path = paths.GRPO_RESULTS / "health.json"
    health = json.loads(path.read_text(encoding="utf-8"))
    for frac, said in ((0.0, True), (0.027, True), (0.97, False)):
        write_json(path, {**health, "weights_changed_frac": frac})
        report.run(results)
        assert (f"{frac:.2%}".replace("%", " %") + " of the weights differ" in paths.REPORT.read_text()) is said


def test_a_models_text_cannot_become_markup(results: Params) -> None:
    report.run(results)
    page = paths.REPORT.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;" in page
    assert "Solve: &lt;b&gt;x&lt;/b&gt;" in page


def test_the_page_loads_nothing_from_elsewhere(results: Params) -> None:
    report.run(results)
    page = paths.REPORT.read_text()
    assert "src=" not in page.replace("default-src", "")
    assert "<link" not in page
    assert "default-src 'none'" in page


def test_equal_results_give_equal_bytes(results: Params) -> None:
    report.run(results)
    first = paths.REPORT.read_bytes()
    report.run(results)
    assert paths.REPORT.read_bytes() == first


def test_a_regression_is_called_one(results: Params) -> None:
    path = paths.EVALUATE_RESULTS / "metrics.json"
    evaluation = json.loads(path.read_text())
    evaluation |= {"verdict": "regressed", "gate": {"min_gain": 0.2, "passed": False}}
    write_json(path, evaluation)
    report.run(results)
    page = paths.REPORT.read_text()
    assert "GRPO made the model worse" in page
    assert "did NOT hold" in page


def test_progress_rows_are_means_over_tenths(results: Params) -> None:
    curve = reporting_page.read_curve(paths.GRPO_RESULTS / "curve.tsv")
    first, middle, last = reporting_page.progress(curve)
    # 20 steps, so a tenth is two of them: steps 1-2, 10-11 and 19-20, each with accuracy step / 20.
    assert (first["step"], first["reward/accuracy"]) == (2, pytest.approx(0.075))
    assert (middle["step"], middle["reward/accuracy"]) == (11, pytest.approx(0.525))
    assert (last["step"], last["reward/accuracy"]) == (20, pytest.approx(0.975))


def test_the_claim_comes_first_in_the_table() -> None:
    metrics = {**model_metrics(0.5), "maj@4": 0.5, "pass@4": 0.9}
    names = ["pass@1", "finished", "format", "lighteval_differs", "maj@4", "pass@4"]
    assert reporting_page.metric_names(metrics) == names


def test_an_empty_cell_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "curve.tsv").write_text("step\tkl\n1\t\n2\t0.5\n")
    curve = reporting_page.read_curve(tmp_path / "curve.tsv")
    assert curve == {"step": [1, 2], "kl": [None, 0.5]}
    assert reporting_page.window_means(curve, 0, 2) == {"step": 2, "kl": 0.5}


@pytest.mark.parametrize("missing", ["sft/curve.tsv", "grpo/curve.tsv", "evaluate/metrics.json"])
def test_a_missing_result_names_the_stage_to_run(results: Params, missing: str) -> None:
    (Path("results") / missing).unlink()
    with pytest.raises(InputError, match=rf"(?s)results/{missing}.*run `posttrain {missing.split('/')[0]}`"):
        report.run(results)
    assert not paths.REPORT.exists()


def test_a_base_has_a_column_and_sft_a_gain_over_it(results: Params) -> None:
    path = paths.EVALUATE_RESULTS / "metrics.json"
    before = {
        "base": model_metrics(0.125),
        "sft_gain": {"mean": 0.325, "low": 0.3, "high": 0.35, "verdict": "improved"},
    }
    write_json(path, json.loads(path.read_text()) | before)
    samples = paths.EVALUATE_RESULTS / "samples.jsonl"
    row = json.loads(samples.read_text())
    write_jsonl(samples, [row | {"base": row["sft"] | {"completions": ["what the base wrote", "x"]}}])
    report.run(results)
    page = " ".join(paths.REPORT.read_text().split())
    assert "<th>metric</th><th>base</th><th>SFT</th><th>GRPO</th>" in page
    assert "0.125&nbsp;[0.075, 0.175]" in page
    assert "pass@1 0.125 of the base, 0.450 after SFT, 0.820 after GRPO" in page
    assert "SFT over the base: +0.325 [+0.300, +0.350], improved." in page
    assert "<pre>what the base wrote</pre>" in page


def test_no_sft_is_claimed_of_an_adopted_model(results: Params) -> None:
    write_json(paths.SFT_RESULTS / "metrics.json", {"parameters": 1234567})
    (paths.SFT_RESULTS / "curve.tsv").write_text("step\tloss\n")
    report.run(results)
    page = " ".join(paths.REPORT.read_text().split())
    assert "1,234,567 parameters, fine-tuned elsewhere: no SFT was run here." in page
    assert "0.450 of the adopted model, 0.820 after GRPO" in page
    assert "SFT: loss" not in page
    assert "tokens seen in SFT" not in page
