"""`dvc repro` without SFT, from a model of one's own, and with SFT beside its base. In file order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from posttrain.params.file import load_params, read_yaml
from posttrain.training.from_scratch import random_model, train_tokenizer
from tests.clone import copy_project
from tests.pipeline.conftest import POSTTRAIN, Run, initialised, outs

OWN = Path("models/base/own")
ROWS = [{"problem": f"Solve: 2x + {n} = {n + 2 * x}", "answer": f"x = {x}"} for n in range(1, 5) for x in range(1, 5)]
STAGES = ["prepare", "sft", "grpo", "evaluate", "report"]
Done = Any


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with problems that nobody solved and a model of the recipe's size."""
    target = tmp_path_factory.mktemp("own")
    copy_project(target)
    return target


@pytest.fixture(scope="module")
def run(own: Path) -> Run:
    run = initialised(own)
    (own / "data/source/own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    torch.manual_seed(0)
    tokenizer = train_tokenizer([row["problem"] for row in ROWS], 384)
    random_model(load_params(own / "params.yaml").model.scratch, tokenizer).save_pretrained(own / OWN)
    tokenizer.save_pretrained(own / OWN)
    return run


@pytest.fixture(scope="module")
def repro(run: Run, own: Path) -> Done:
    columns = {"problem": "problem", "solution": None, "answer": "answer", "keep": []}

    def without_sft(params: Any) -> None:
        params["model"]["name_or_path"] = str(OWN)
        params["prepare"].update(dataset="data/source/own.jsonl", columns=columns)
        params["sft"] = None

    change(own, without_sft)
    return run("dvc", "repro")


def change(own: Path, changes: Callable[[Any], None]) -> None:
    yaml = YAML()
    params = yaml.load(own / "params.yaml")
    changes(params)
    yaml.dump(params, own / "params.yaml")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_every_stage_runs_and_the_model_is_adopted(repro: Done, own: Path) -> None:
    assert repro.returncode == 0, repro.stdout + repro.stderr
    assert [stage for stage in STAGES if f"Running stage '{stage}'" in repro.stdout] == STAGES
    assert f"sft | adopted {OWN}, " in repro.stdout
    given, taken = weights(own / OWN), weights(own / "models/sft")
    assert given.keys() == taken.keys()
    assert all(torch.equal(given[name], taken[name]) for name in given)
    assert read_yaml(own / "dvc.lock")["stages"]["sft"]["params"]["params.yaml"]["sft"] is None
    page = (own / "results/report.html").read_text()
    assert "fine-tuned elsewhere: no SFT was run here" in page


def test_nothing_is_left_to_do_and_all_of_it_holds(repro: Done, run: Run, own: Path) -> None:
    again = run("dvc", "repro")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("didn't change, skipping") == len(STAGES)
    verified = run(*POSTTRAIN, "verify")
    assert verified.returncode == 0, verified.stdout
    assert f"note    models/sft: origin | adopted from {OWN}, not trained here" in verified.stdout
    lineage = run(*POSTTRAIN, "lineage")
    assert f"adopted from {OWN}, not trained here" in lineage.stdout
    plots = run("dvc", "plots", "show", "--json")
    assert plots.returncode == 0, plots.stderr
    assert json.loads(plots.stdout).get("errors", []) == []
    assert run("dvc", "metrics", "show").returncode == 0
    assert run(*POSTTRAIN, "check").returncode == 0


def test_another_model_under_the_same_name_is_noticed(repro: Done, run: Run, own: Path) -> None:
    made, path = outs(own), own / OWN / "model.safetensors"
    before, found = path.read_bytes(), weights(own / OWN)
    save_file({name: value + 0.01 for name, value in found.items()}, path, {"format": "pt"})
    verified = run(*POSTTRAIN, "verify")
    assert verified.returncode == 2
    assert f"changed {OWN}/model.safetensors" in verified.stdout
    done = run("dvc", "repro", "sft")
    assert done.returncode == 0, done.stderr
    assert "Stage 'prepare' didn't change" in done.stdout
    assert "Running stage 'sft'" in done.stdout
    assert "grpo" in run("dvc", "status", "grpo").stdout
    path.write_bytes(before)
    back = run("dvc", "repro")
    assert back.returncode == 0, back.stderr
    assert "Running stage" not in back.stdout
    assert outs(own) == made


def test_sft_starts_from_it_and_is_compared_with_it(repro: Done, run: Run, own: Path) -> None:
    shipped = read_yaml(own / "recipes/tiny.yaml")["sft"] | read_yaml(own / "recipes/seconds.yaml")["sft"]

    def with_sft(params: Any) -> None:
        params["prepare"]["dataset"] = "equations"
        params["sft"] = shipped
        params["evaluate"]["base"] = True

    change(own, with_sft)
    done = run("dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((own / "results/evaluate/metrics.json").read_text())
    assert metrics["sft_gain"]["mean"] == metrics["sft"]["pass@1"] - metrics["base"]["pass@1"]
    rows = [json.loads(line) for line in (own / "results/evaluate/samples.jsonl").read_text().splitlines()]
    assert all(len(row[model]["completions"]) == 2 for row in rows for model in ("base", "sft", "grpo"))
    assert [row["base"]["completions"] for row in rows] != [row["sft"]["completions"] for row in rows]
    inputs = json.loads((own / "results/evaluate/manifest.json").read_text())["inputs"]
    assert f"{OWN}/model.safetensors" in inputs
    assert (
        '<th scope="col">base</th><th scope="col">SFT</th><th scope="col">GRPO</th>'
        in (own / "results/report.html").read_text()
    )
    assert "base pass@1" in run(*POSTTRAIN, "lineage").stdout
    assert run(*POSTTRAIN, "verify", "results/evaluate").returncode == 0
