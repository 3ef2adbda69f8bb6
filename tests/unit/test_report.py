"""The report: what it says, that equal results give equal bytes, its figures and tables as files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import paths
from posttrain.errors import InputError
from posttrain.outputs.manifest import MANIFEST, publish, sha256, write_json, write_jsonl
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.reporting import charts, drawing, lengths, problems, provenance, tables
from posttrain.reporting.page import render
from posttrain.reporting.results import read, read_curve
from stages import report
from tests.conftest import params_of

ROOT = Path(__file__).parents[2]
HOSTILE = "<think>\n<script>alert(1)</script></pre>\n</think>\n<answer>\n\x1b[31mx = 5\n</answer>"
RIGHT, WRONG = "<think>\n4\n</think>\n<answer>\n4\n</answer>", "<think>\n5\n</think>\n<answer>\n5\n</answer>"


def model_metrics(pass_at_1: float) -> dict[str, Any]:
    return {
        "pass@1": pass_at_1,
        "pass@1_low": pass_at_1 - 0.05,
        "pass@1_high": pass_at_1 + 0.05,
        "format": 0.99,
        "finished": 1.0,
        "lighteval_differs": 0,
        "by_task": {"gsm8k": 0.5},
    }


def sampled(*right: int, texts: tuple[str, str] = (WRONG, RIGHT), **more: Any) -> dict[str, Any]:
    """A model's samples of a problem."""
    count = len(right)
    return {
        "completions": [texts[value] for value in right],
        "correct": [float(value) for value in right],
        "finished": [True] * count,
        "rewards": [{"accuracy": float(value), "format": 1.0} for value in right],
        "differs": [None] * count,
        **more,
    }


def problem(name: str, sft: dict[str, Any], grpo: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "problem": f"What is {name}?", "answer": "4", "sft": sft, "grpo": grpo, **more}


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
        "completions/mean_length",
    ]
    rows = [[str(step), str(step / 20), "1", "1", "0.5", "0", "0.3", "0.01", "50"] for step in range(1, 21)]
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
    rows_of_problems = [
        problem("lost", sampled(1, 1), sampled(0, 1)),
        problem("gained", sampled(0, 1), sampled(1, 1)),
        problem("right", sampled(1, 1), sampled(1, 1)),
        problem("hostile", sampled(0, 0, texts=(HOSTILE, HOSTILE)), sampled(0, 0, texts=(HOSTILE, HOSTILE))),
    ]
    rows_of_problems[3]["problem"] = "Solve: <b>x</b>"
    write_jsonl(paths.EVALUATE_RESULTS / "samples.jsonl", rows_of_problems)
    parents = {"data/prepared": sha256(paths.PREPARED / MANIFEST), "models/sft": "a" * 64, "models/grpo": "b" * 64}
    write_json(paths.EVALUATE_RESULTS / MANIFEST, {"stage": "evaluate", "parents": parents, "files": {}})
    return load_params(ROOT / "params.yaml")


class Blank(dict[str, bytes]):
    """Figures for tests that read the page's text."""

    def __missing__(self, name: str) -> bytes:
        return b"<svg></svg>"


def page_of(params: Params) -> str:
    """The page with its white space evened out, and no lines in its figures."""
    return " ".join(render(read(params), Blank()).split())


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    write_json(path, change(json.loads(path.read_text(encoding="utf-8"))))


def edit_samples(*rows: dict[str, Any]) -> None:
    write_jsonl(paths.EVALUATE_RESULTS / "samples.jsonl", list(rows))


# ---------------------------------------------------------------------------------------------------------------------
# What it says


def test_the_page_states_the_claim_with_its_interval(results: Params) -> None:
    page = page_of(results)
    assert "GRPO improved the model" in page
    assert "<strong>+0.370</strong>, 95 % interval [+0.300, +0.440], paired p&nbsp;=&nbsp;0.0001." in page
    assert '<th scope="row">pass@1</th><td>0.450 [0.400, 0.500]</td><td>0.820 [0.770, 0.870]</td>' in page
    assert "The gate of +0.2 held." in page
    assert "speaks of this pair of checkpoints alone" in page
    assert "The smallest gain that so many problems show four times in five is 0.100." in page
    assert '<tr><th scope="row">odd</th><td>3</td></tr>' in page


def test_the_page_names_the_sources_of_a_mixture(results: Params) -> None:
    mixture = [{"dataset": "data/source/gsm8k", "name": part} for part in ("train", "test")]
    mixture += [{"dataset": "data/source/own.jsonl"}]
    page = page_of(params_of({"prepare.dataset": mixture, "prepare.answer_pattern": None}))
    assert f" · {results.model.name_or_path} · data/source/gsm8k, data/source/own.jsonl</p>" in page


def test_a_regression_is_called_one(results: Params) -> None:
    verdict = {"verdict": "regressed", "gate": {"min_gain": 0.2, "passed": False}}
    edit(paths.EVALUATE_RESULTS / "metrics.json", lambda data: data | verdict)
    page = page_of(results)
    assert "GRPO made the model worse" in page
    assert "did NOT hold" in page


def test_what_the_health_monitor_said_is_on_the_page(results: Params) -> None:
    assert "No rule of the health monitor had anything to say." in page_of(results)
    finding = {"rule": "truncation", "action": "stop", "step": 14, "saw": "60%", "why": "Because.", "do": "Raise it."}
    outcome = {
        "steps": {"asked": 20, "trained": 14, "published": 10},
        "stopped_by": "truncation",
        "probe": [{"step": 10, "accuracy": 0.5}],
        "rollbacks": [{"rule": "kl_divergence", "step": 9, "to_step": 3, "learning_rate": 5e-05}],
        "findings": [finding],
    }
    write_json(paths.GRPO_RESULTS / "health.json", outcome)
    page = page_of(results)
    assert "Stopped after 14 of 20 steps by the rule <code>truncation</code>." in page
    assert "The published weights are those of step 10 of 14." in page
    assert "After step 9 <code>kl_divergence</code> took the weights back to step 3" in page
    assert "Step 14, <code>truncation</code> (stop): 60%. Because. Raise it." in page
    assert "No rule of the health monitor" not in page
    assert [(event["step"], event["action"]) for event in charts.events(outcome)] == [
        (9, "rollback"),
        (10, "published"),
        (14, "stop"),
    ]


def test_a_run_that_moved_few_weights_says_so_on_the_page(results: Params) -> None:
    path = paths.GRPO_RESULTS / "health.json"
    for frac, said in ((0.0, True), (0.027, True), (0.97, False)):
        edit(path, lambda data, frac=frac: {**data, "weights_changed_frac": frac})
        assert (f"{frac:.2%}".replace("%", " %") + " of the weights differ" in page_of(results)) is said


def test_a_base_has_a_column_and_sft_a_gain_over_it(results: Params) -> None:
    before = {
        "base": model_metrics(0.125),
        "sft_gain": {"mean": 0.325, "low": 0.3, "high": 0.35, "verdict": "improved"},
    }
    edit(paths.EVALUATE_RESULTS / "metrics.json", lambda data: data | before)
    base = sampled(0, 0, texts=("what the base wrote", ""))
    edit_samples(problem("gained", sampled(0, 1), sampled(1, 1), base=base))
    page = page_of(results)
    assert '<th scope="col">base</th><th scope="col">SFT</th><th scope="col">GRPO</th>' in page
    assert "<td>0.125 [0.075, 0.175]</td>" in page
    assert "pass@1 0.125 of the base, 0.450 after SFT, 0.820 after GRPO" in page
    assert "SFT over the base: +0.325 [+0.300, +0.350], improved." in page
    assert "<pre>what the base wrote</pre>" in page
    assert [(row["before"], row["after"]) for row in problems.transitions(read(results))] == [
        ("sft", "grpo"),
        ("base", "sft"),
        ("base", "grpo"),
    ]


def test_no_sft_is_claimed_of_an_adopted_model(results: Params) -> None:
    write_json(paths.SFT_RESULTS / "metrics.json", {"parameters": 1234567})
    (paths.SFT_RESULTS / "curve.tsv").write_text("step\tloss\n")
    page = page_of(results)
    assert "1,234,567 parameters, fine-tuned elsewhere: no SFT was run here." in page
    assert "0.450 of the adopted model, 0.820 after GRPO" in page
    assert "SFT: loss" not in page
    assert "tokens seen in SFT" not in page


def test_the_chain_names_each_folder_and_tells_of_another_parent(results: Params) -> None:
    chain = provenance.lineage(read(results))
    assert [node["name"] for node in chain] == ["data/prepared", "models/sft", "models/grpo", "results/evaluate"]
    assert [node["broken"] for node in chain] == [False] * 4
    assert chain[1]["hash"] == "a" * 64
    assert "made from another one" not in page_of(results)
    edit(paths.EVALUATE_RESULTS / MANIFEST, lambda data: data | {"parents": {"data/prepared": "c" * 64}})
    assert [node["broken"] for node in provenance.lineage(read(results))] == [True, False]
    assert "made from another one" in page_of(results)


def test_params_are_those_of_the_manifests_where_they_say(results: Params) -> None:
    edit(paths.EVALUATE_RESULTS / MANIFEST, lambda data: data | {"params": {"seed": 77}})
    shown = provenance.params(read(results))
    assert shown["seed"] == 77
    assert shown["grpo"]["max_steps"] == results.grpo.max_steps
    assert "launch" not in shown
    assert "\nseed: 77\n" in provenance.as_yaml({"a": 1, **shown})


def test_work_is_counted_in_units_of_no_machine(results: Params) -> None:
    done = 20 * results.grpo.prompts_per_step * results.grpo.num_generations
    assert provenance.work(read(results)) == {
        "parameters of the model": 1234567,
        "tokens seen in SFT": 1000,
        "completions sampled in GRPO": done,
        "tokens sampled in GRPO": 50 * done,
        "completions evaluated": 16,
    }


def test_seconds_are_printed_of_the_runs_that_made_what_is_here(
    results: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    report.run(results)
    page = paths.REPORT.read_bytes()
    run = {
        "seconds": 12.4,
        "machine": {"processor": "Zen", "cores": 2},
        "git": {"commit": "0123456789abcdef", "dirty": True},
    }
    for stage, folder, manifest in (
        ("prepare", paths.PREPARED, None),
        ("evaluate", paths.EVALUATE_RESULTS, "of another run"),
    ):
        write_json(paths.RUN_LOG / f"{stage}.json", run | {"manifest": manifest or sha256(folder / MANIFEST)})
    capsys.readouterr()
    report.run(results)
    assert paths.REPORT.read_bytes() == page
    assert provenance.runs() == ["prepare 12 s on Zen, 2 cores, commit 0123456789ab with changes"]
    assert "report | prepare 12 s on Zen" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["sft/curve.tsv", "grpo/curve.tsv", "evaluate/metrics.json"])
def test_a_missing_result_names_the_stage_to_run(results: Params, missing: str) -> None:
    (Path("results") / missing).unlink()
    with pytest.raises(InputError, match=rf"(?s)results/{missing}.*run `posttrain {missing.split('/')[0]}`"):
        report.run(results)
    assert not paths.REPORT.exists()


CONFLICT = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n"


@pytest.mark.parametrize("text", [CONFLICT, "", "{}", "[]", "\xff", "[" * 99_999, "step\tloss\n1\n", "step\nx\n"])
@pytest.mark.parametrize("name", ["evaluate/metrics.json", "sft/metrics.json", "grpo/health.json", "grpo/curve.tsv"])
def test_a_result_that_cannot_be_read_names_the_stage_to_run(results: Params, name: str, text: str) -> None:
    (paths.EVALUATE_RESULTS.parent / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"posttrain {name.partition('/')[0]}") as caught:
        read(results)
    assert name in caught.value.where


@pytest.mark.parametrize("name", ["metrics.json", "samples.jsonl"])
def test_an_evaluation_that_was_edited_makes_no_page(results: Params, name: str) -> None:
    manifest = json.loads((paths.EVALUATE_RESULTS / MANIFEST).read_text())
    files = {file: sha256(paths.EVALUATE_RESULTS / file) for file in ("metrics.json", "samples.jsonl")}
    write_json(paths.EVALUATE_RESULTS / MANIFEST, manifest | {"files": files})
    with (paths.EVALUATE_RESULTS / name).open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match=f"{name} changed"):
        report.run(results)


def test_keys_that_are_not_known_are_shown(results: Params) -> None:
    edit(paths.EVALUATE_RESULTS / "metrics.json", lambda data: data | {"tasks": {"math_500": {"pass@1": 0.25}}})
    edit(paths.PREPARED / MANIFEST, lambda data: data | {"card": {"too long": {"rows": 12, "examples": ["<i>one"]}}})
    page = page_of(results)
    assert '<th scope="row">math_500</th><td>0.25</td>' in page
    assert "<dt>examples</dt>" in page
    assert "&lt;i&gt;one" in page


def test_rules_of_the_data_are_counted_in_and_out(results: Params) -> None:
    example = {"row": "train:7", "problem": "<b>What</b>", "note": "see the proof"}
    rule = {"name": "prose-gold", "reason": "with a gold that is prose", "in": 1040, "left_out": 3, "out": 1037}
    edit(paths.PREPARED / MANIFEST, lambda data: data | {"rules": [rule | {"examples": [example]}]})
    page = page_of(results)
    assert "word for word in both" not in page
    row = '<th scope="row">with a gold that is prose</th><td>1,040</td><td>3</td> <td>1,037</td>'
    assert row in page
    edit(paths.PREPARED / MANIFEST, lambda data: data | {"rules": [rule | {"name": "in-test-set", "examples": []}]})
    assert "no problem stands word for word in both" in page_of(results)
    assert '<th scope="row">train:7</th><td>&lt;b&gt;What&lt;/b&gt;</td><td>see the proof</td>' in page


def test_like_things_make_a_table() -> None:
    found = tables.grid([{"a": 1, "b": "x"}, {"a": 2.5, "c": None}])
    assert found is not None
    assert found.head == ["a", "b", "c"]
    assert found.rows == [["1", "x", "–"], ["2.5", "–", "–"]]
    named = tables.grid({"gsm8k": {"pass@1": 0.25, "problems": 1319}})
    assert named is not None
    assert (named.head, named.rows) == (["", "pass@1", "problems"], [["gsm8k", "0.25", "1,319"]])
    for other in ({}, [], ["a"], {"a": 1}, [{"a": {"b": 1}}], None):
        assert tables.grid(other) is None


# ---------------------------------------------------------------------------------------------------------------------
# The problems


def test_outcomes_go_by_most_of_the_samples(results: Params) -> None:
    assert problems.transitions(read(results)) == [
        {"before": "sft", "after": "grpo", "lost": 1, "gained": 1, "wrong": 1, "right": 1, "more": 1, "fewer": 1}
    ]
    assert problems.outcome([1.0, 1.0, 0.0], [1.0, 0.0, 0.0]) == "lost"
    assert problems.outcome([1.0, 0.0], [0.0, 0.0]) == "wrong"  # half is not most


def test_further_tasks_are_listed_and_not_part_of_the_claim(results: Params) -> None:
    rows = [json.loads(line) for line in (paths.EVALUATE_RESULTS / "samples.jsonl").read_text().splitlines()]
    other = problem("aime", sampled(0, 0), sampled(1, 1), task="aime24")
    edit_samples(*rows, {key: value for key, value in other.items() if key != "answer"})
    block = {
        "sft": {"pass@1": 0.1, "pass@1_low": 0.0, "pass@1_high": 0.2},
        "grpo": {"pass@1": 0.3},
        "gains": [{"before": "sft", "after": "grpo", "mean": 0.2, "low": 0.1, "high": 0.3}],
    }
    clean = {"mean": 0.31, "low": 0.2, "high": 0.4, "verdict": "improved"}
    edit(paths.EVALUATE_RESULTS / "metrics.json", lambda data: data | {"tasks": {"aime24": block}, "clean_gain": clean})
    found = read(results)
    assert problems.transitions(found)[0]["gained"] == 1
    assert sum(row["count"] for row in lengths.measured(found).rows["grpo"].values()) == 2 * len(rows)
    assert "aime" not in [row["id"] for row in problems.telling(found, 99)]
    assert [row["tags"] for row in problems.index(found)] == [["held out"]] * len(rows) + [["aime24"]]
    page = page_of(results)
    assert "<td>0.100 [0.000, 0.200]</td><td>0.300</td><td>+0.200 [+0.100, +0.300]</td>" in page
    assert "On the problems that training has not seen: +0.310 [+0.200, +0.400], improved." in page


def test_some_problems_of_each_outcome_stand_in_plain_sight(results: Params) -> None:
    found = read(results)
    assert [row["id"] for row in problems.telling(found, 2)] == ["lost", "gained"]
    assert [row["id"] for row in problems.telling(found, 9)] == ["lost", "gained", "hostile", "right"]
    assert problems.telling(found, 0) == []


def test_every_completion_is_in_the_page(results: Params) -> None:
    rows = [problem(str(number), sampled(0, 1), sampled(1, 1)) for number in range(2 * problems.CHUNK + 3)]
    edit_samples(*rows)
    found = read(results)
    parts = problems.chunks(found)
    assert [len(part) for part in parts] == [problems.CHUNK, problems.CHUNK, 3]
    assert [row["id"] for row in problems.index(found)] == [row["id"] for row in rows]
    assert parts[2][2]["sft"]["texts"] == [WRONG, RIGHT]
    assert page_of(results).count('id="completions-') == 3


def test_long_completions_lose_their_middle_where_the_page_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems.text_limit([5, 90]) == 90
    assert problems.text_limit([]) == 0
    monkeypatch.setattr(problems, "MOST_CHARACTERS", 60)
    limit = problems.text_limit([5, 90])
    assert limit == 50  # 90, 67, 50: 5 + 50 characters are within 60
    assert problems.shortened("a" * 50, limit) == "a" * 50
    text = "a" * 40 + "b" * 30 + "c" * 20
    left = "\n[… 41 characters: results/evaluate/samples.jsonl has them …]\n"
    assert problems.shortened(text, limit) == "a" * 33 + left + "c" * 16


def test_disagreements_are_counted_by_model_and_kind(results: Params) -> None:
    edit_samples(
        problem("a", sampled(1, 1, differs=["number", None]), sampled(0, 1, differs=["number", "prose"])),
        problem("b", sampled(1, 0, differs=["number", None]), sampled(1, 1)),
    )
    assert problems.disagreements(read(results)) == [
        {"model": "grpo", "kind": "number", "ours": False, "count": 1},
        {"model": "grpo", "kind": "prose", "ours": True, "count": 1},
        {"model": "sft", "kind": "number", "ours": True, "count": 2},
    ]


def test_lengths_are_of_the_right_the_wrong_and_the_cut_off(results: Params) -> None:
    edit_samples(
        problem("a", sampled(1, 0, tokens=[10, 30]), sampled(1, 1, tokens=[10, 90], finished=[True, False])),
        problem("b", sampled(1, 0, tokens=[20, 31]), sampled(0, 1, tokens=[40, 12])),
    )
    found = lengths.measured(read(results))
    assert found.unit == "tokens"
    assert found.rows["sft"]["right"] == {"count": 2, "mean": 15, "median": 15, "p95": 20}
    assert found.rows["grpo"]["cut off"] == {"count": 1, "mean": 90, "median": 90, "p95": 90}
    assert found.rows["sft"]["cut off"]["count"] == 0
    assert found.width == 5  # 80 tokens in 30 bins
    assert (found.centres[0], found.centres[-1]) == (12, 92)
    assert found.counts["sft"]["wrong"][4] == 2
    assert sum(map(sum, found.counts["grpo"].values())) == 4


def test_lengths_without_tokens_are_in_characters(results: Params) -> None:
    found = lengths.measured(read(results))
    assert found.unit == "characters"
    assert found.rows["grpo"]["right"]["mean"] == len(RIGHT)


# ---------------------------------------------------------------------------------------------------------------------
# Curves, figures, tables


def test_progress_rows_are_means_over_tenths(results: Params) -> None:
    curve = read_curve(paths.GRPO_RESULTS / "curve.tsv", "grpo")
    first, middle, last = charts.progress(curve)
    # 20 steps, so a tenth is two of them: steps 1-2, 10-11 and 19-20, each with accuracy step / 20.
    assert (first["step"], first["reward/accuracy"]) == (2, pytest.approx(0.075))
    assert (middle["step"], middle["reward/accuracy"]) == (11, pytest.approx(0.525))
    assert (last["step"], last["reward/accuracy"]) == (20, pytest.approx(0.975))


def test_an_empty_cell_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "curve.tsv").write_text("step\tkl\n1\t\n2\t0.5\n")
    curve = read_curve(tmp_path / "curve.tsv", "grpo")
    assert curve == {"step": [1, 2], "kl": [None, 0.5]}
    assert charts.window_means(curve, 0, 2) == {"step": 2, "kl": 0.5}


def test_long_curves_are_drawn_as_means_over_ten_rows() -> None:
    short: list[float | None] = [1.0, 5.0]
    assert charts.means(short) == short
    assert charts.means([1.0, float("nan")]) == [1.0, None]
    long: list[float | None] = [float(number) for number in range(charts.FEW)]
    long[3] = None
    long[4] = float("nan")
    smooth = charts.means(long)
    assert smooth[2] == 1
    assert smooth[3] is None
    assert smooth[4] is None
    assert smooth[5] == (0 + 1 + 2 + 5) / 4
    assert smooth[-1] == charts.FEW - 5.5


def test_only_what_was_logged_is_drawn(results: Params) -> None:
    drawn = {chart.name: list(columns) for chart, columns in charts.charts(read(results))}
    assert list(drawn) == ["sft-loss", "grpo-rewards", "grpo-advantage", "grpo-kl", "grpo-length"]
    assert drawn["grpo-rewards"] == ["step", "reward/accuracy", "reward/format", "reward/tag_count", "reward/total"]


def test_the_claim_comes_first_in_the_table() -> None:
    metrics = {**model_metrics(0.5), "maj@4": 0.5, "pass@4": 0.9}
    names = ["pass@1", "finished", "format", "lighteval_differs", "maj@4", "pass@4"]
    assert tables.metric_names(metrics) == names


def test_tables_escape_what_markdown_and_latex_would_read() -> None:
    table = tables.Table(
        "t", "A table", ["metric", "a|b"], [["lighteval_maj@4", "5 % & <i>"], ["wrong → right", "1\\2"]]
    )
    assert table.markdown() == (
        "| metric | a\\|b |\n| --- | ---: |\n| lighteval_maj@4 | 5 % &amp; &lt;i> |\n| wrong → right | 1\\2 |\n"
    )
    assert table.latex().splitlines() == [
        "% A table",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"metric & a|b \\",
        r"\midrule",
        r"lighteval\_maj@4 & 5 \% \& <i> \\",
        r"wrong $\rightarrow$ right & 1\textbackslash{}2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_figures_and_tables_are_files_too(results: Params) -> None:
    report.run(results)
    names = {path.name for path in paths.REPORT_FILES.iterdir()}
    for figure in ("scores", "gains", "lengths-sft", "lengths-grpo", "sft-loss", "grpo-rewards", "grpo-kl"):
        assert (paths.REPORT_FILES / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert "var(--" not in (paths.REPORT_FILES / f"{figure}.svg").read_text()
    assert {
        f"{name}.{form}" for name in ("evaluation", "outcomes", "lengths", "training") for form in ("md", "tex")
    } < names
    assert (
        "| pass@1 | 0.450 [0.400, 0.500] | 0.820 [0.770, 0.870] |" in (paths.REPORT_FILES / "evaluation.md").read_text()
    )
    assert not set(json.loads((paths.REPORT_FILES / MANIFEST).read_text())["files"]) - names


def test_a_figure_in_the_page_has_the_pages_colours_and_no_style_sheet(results: Params) -> None:
    svg = drawing.for_page(drawing.saved(drawing.scores(read(results)), "svg"))
    assert svg.startswith("<svg")
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "var(--c3, #1a7f37)" in svg
    for colour in drawing.VARIABLES:
        assert svg.count(colour) == svg.count(f", {colour})")


def test_equal_results_give_equal_bytes(results: Params) -> None:
    report.run(results)
    first = {path: path.read_bytes() for path in (paths.REPORT, *paths.REPORT_FILES.iterdir())}
    report.run(results)
    assert {path: path.read_bytes() for path in (paths.REPORT, *paths.REPORT_FILES.iterdir())} == first
