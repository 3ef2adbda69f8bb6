"""The real pipeline, end to end: DVC, training, lighteval, report. In file order; each test leaves a good tree."""

import hashlib
import json
import os
import re
import signal
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import POSTTRAIN, Run, environment, outs, runner
from tests.processes import processes, wait
from tests.stopped import set_params

Done = "subprocess.CompletedProcess[str]"
STAGES = ["prepare", "sft", "grpo", "evaluate", "report"]
EXPERIMENTS = ("dvc", "exp", "show", "--only-changed", "--drop", ".*/|Created|State|Executor|gain_|verdict")
"""As in docs/experiments.md."""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_repro_runs_every_stage(repro: Done, clone: Path) -> None:
    assert repro.returncode == 0, repro.stdout + repro.stderr
    for stage in STAGES:
        assert f"Running stage '{stage}'" in repro.stdout
    assert "grpo 3/3 | reward/accuracy" in repro.stdout
    assert "next: posttrain gate" in repro.stdout
    assert (clone / "results/report.html").is_file()
    # The trainers leave nothing behind, pickles least of all.
    assert {path.suffix for path in (clone / "models/grpo").iterdir()} == {".json", ".safetensors", ".jinja", ".md"}
    assert not list((clone / ".posttrain/unpublished").iterdir())


def test_no_test_problem_was_trained_on(repro: Done, clone: Path) -> None:
    problems = {
        name: {json.loads(line)["problem"] for line in (clone / f"data/prepared/{name}.jsonl").read_text().splitlines()}
        for name in ("sft", "train", "test")
    }
    assert problems["test"]
    assert not problems["test"] & (problems["sft"] | problems["train"])


def test_lighteval_and_the_reward_judged_every_completion(repro: Done, clone: Path) -> None:
    metrics = read_json(clone / "results/evaluate/metrics.json")
    lines = (clone / "results/evaluate/samples.jsonl").read_text().split("\n")[:-1]
    assert len(lines) == metrics["problems"] == read_json(clone / "data/prepared/manifest.json")["rows"]["test"]
    for model in ("sft", "grpo"):
        correct = [value for line in lines for value in json.loads(line)[model]["correct"]]
        assert len(correct) == 2 * metrics["problems"]
        assert metrics[model]["pass@1"] == sum(correct) / len(correct)


def test_a_second_repro_runs_nothing(repro: Done, run: Run) -> None:
    again = run("dvc", "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage" not in again.stdout
    assert again.stdout.count("didn't change, skipping") == len(STAGES)


def test_hardware_reruns_nothing(repro: Done, run: Run, clone: Path) -> None:
    params = clone / "params.yaml"
    text = params.read_text()
    params.write_text(re.sub(r"micro_batch_size: \d+", "micro_batch_size: 1", text))
    assert params.read_text() != text
    status = run("dvc", "status")
    params.write_text(text)
    assert "up to date" in status.stdout


def test_a_single_stage_gives_the_same_bytes_as_repro(repro: Done, run: Run, clone: Path) -> None:
    git_ignores = set((clone / "results").rglob(".gitignore"))  # DVC keeps them beside its outputs
    assert git_ignores
    for stage, folder in (("prepare", "data/prepared"), ("sft", "models/sft"), ("grpo", "models/grpo")):
        before = hashes(clone / folder)
        done = run(*POSTTRAIN, stage)
        assert done.returncode == 0, done.stderr
        assert hashes(clone / folder) == before
    assert "up to date" in run("dvc", "status").stdout
    assert run(*POSTTRAIN, "report").returncode == 0
    assert set((clone / "results").rglob(".gitignore")) == git_ignores


def test_dvc_shows_metrics_plots_and_parameters(repro: Done, run: Run, clone: Path) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert set(metrics) == {"results/grpo.json", "results/evaluate.json"}
    whole = read_json(clone / "results/evaluate/metrics.json")
    assert metrics["results/evaluate.json"]["data"] == {
        **{name: round(whole[name]["pass@1"], 4) for name in ("sft", "grpo")},
        **{"gain": round(whole["gain"]["mean"], 4), "verdict": "too few problems"},  # twelve
        **{f"gain_{end}": round(whole["gain"][end], 4) for end in ("low", "high")},
    }
    assert set(metrics["results/grpo.json"]["data"]) == {"kl"}
    table = run("dvc", "metrics", "show").stdout.splitlines()
    assert max(map(len, table)) <= 100
    assert len(table) == 3
    plots = run("dvc", "plots", "show", "--json")
    assert plots.returncode == 0, plots.stderr
    titles = set(json.loads(plots.stdout)["data"])
    assert {"SFT loss", "Reward", "Advantage", "KL divergence to the SFT model"} <= titles
    assert json.loads(plots.stdout).get("errors", []) == []
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(text.replace("beta: 0.01", "beta: 0.02"))
    difference = json.loads(run("dvc", "params", "diff", "--json").stdout)
    (clone / "params.yaml").write_text(text)
    assert list(difference["params.yaml"]) == ["grpo.beta"]
    assert (difference["params.yaml"]["grpo.beta"]["old"], difference["params.yaml"]["grpo.beta"]["new"]) == (
        0.01,
        0.02,
    )


def test_an_experiment_reruns_what_its_change_touches(repro: Done, run: Run, clone: Path) -> None:
    before, made = hashes(clone / "models/grpo"), outs(clone)
    run("git", "add", "-A")
    assert run("git", "commit", "-qm", "results").returncode == 0
    done = run("dvc", "exp", "run", "-n", "more", "-S", "grpo.num_generations=4")
    assert done.returncode == 0, done.stderr
    assert "Stage 'sft' didn't change, skipping" in done.stdout
    assert "Running stage 'grpo'" in done.stdout
    after = hashes(clone / "models/grpo")
    assert after["model.safetensors"] != before["model.safetensors"]
    shown = runner(clone, COLUMNS="100")(*EXPERIMENTS).stdout
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown
    assert "[more]" in shown
    assert "grpo.num_generations" in shown

    back(run, clone, made, ["grpo", "evaluate", "report"])
    assert run("git", "status", "--porcelain").stdout == ""

    def restored() -> None:
        assert run("dvc", "checkout", "-q").returncode == 0
        assert hashes(clone / "models/grpo") == before
        assert run(*POSTTRAIN, "verify").returncode == 0

    assert run("dvc", "exp", "apply", "more").returncode == 0
    assert "num_generations: 4" in (clone / "params.yaml").read_text()
    assert hashes(clone / "models/grpo") == after
    assert run(*POSTTRAIN, "verify").returncode == 0
    run("git", "add", "-A")
    assert run("git", "commit", "-qm", "applied").returncode == 0
    assert run("git", "reset", "-q", "--hard", "HEAD~1").returncode == 0
    assert run(*POSTTRAIN, "verify").returncode == 2  # the models of one commit, the params of another
    restored()


def back(run: Run, clone: Path, made: dict[str, str], stages: list[str]) -> None:
    """To the params of the commit: DVC restores these stages, runs none, and every out is as it was made."""
    assert run("git", "checkout", "-q", "params.yaml").returncode == 0
    done = run("dvc", "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout
    assert re.findall(r"Stage '(\w+)' is cached - skipping run, checking out outputs", done.stdout) == stages
    assert outs(clone) == made


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"prepare": {"test_frac": 0.3}, "sft": {"max_steps": 5}}, ["prepare", "sft"]),
        ({"report": {"num_samples": 1}}, ["report"]),
    ],
)
def test_params_that_were_there_before_run_nothing(
    repro: Done, run: Run, clone: Path, changes: dict[str, dict[str, Any]], stages: list[str]
) -> None:
    """Of grpo and evaluate, the tests of experiments see it."""
    made = outs(clone)
    set_params(clone, changes)
    there = run("dvc", "repro", stages[-1])
    assert there.returncode == 0, there.stderr
    assert re.findall(r"Running stage '(\w+)'", there.stdout) == stages
    assert set(outs(clone).items()) - set(made.items())
    back(run, clone, made, stages)


def test_an_experiment_in_a_temporary_folder_gets_to_the_end(repro: Done, run: Run, clone: Path) -> None:
    """DVC's queue runs in such folders too; what git ignores, lighteval's environment among it, is not there."""
    made = outs(clone)
    done = run("dvc", "exp", "run", "--temp", "-n", "apart", "-S", "evaluate.temperature=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["evaluate", "report"]
    assert outs(clone) == made
    assert run("dvc", "exp", "apply", "apart").returncode == 0
    assert outs(clone) != made
    back(run, clone, made, ["evaluate", "report"])


def test_a_stage_before_its_input_says_what_to_run(repro: Done, run: Run, clone: Path) -> None:
    aside = clone.with_name("aside")
    (clone / "models/sft").rename(aside)
    done = run(*POSTTRAIN, "grpo")
    aside.rename(clone / "models/sft")
    assert done.returncode == 2
    assert "models/sft" in done.stderr
    assert "posttrain sft" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_half_written_model_is_refused_and_nothing_touched(repro: Done, run: Run, clone: Path) -> None:
    manifest = clone / "models/sft/manifest.json"
    text = manifest.read_text()
    before = hashes(clone / "models/grpo")
    manifest.unlink()
    done = run(*POSTTRAIN, "grpo")
    manifest.write_text(text)
    assert done.returncode == 2
    assert "half-written" in done.stderr
    assert hashes(clone / "models/grpo") == before


def test_repro_goes_on_after_a_kill(repro: Done, run: Run, clone: Path) -> None:
    lock = (clone / "dvc.lock").read_text()
    command = ["dvc", "repro", "--single-item", "--force", "sft"]
    dvc = subprocess.Popen(command, cwd=clone, env=environment(clone), stdout=subprocess.DEVNULL)
    saved = clone / ".posttrain/checkpoints/sft"
    wait(lambda: list(saved.glob("*/step-*/manifest.json")), 120, every_s=0.001)
    for pid in processes(clone, command="posttrain sft"):
        with suppress(ProcessLookupError):  # the shell in front of it goes with it
            os.kill(pid, signal.SIGKILL)
    assert dvc.wait(60) != 0
    assert not (clone / "models/sft").exists()  # DVC removed it
    again = run("dvc", "repro", "--single-item", "--force", "sft")  # else it comes from the cache of runs
    assert again.returncode == 0, again.stderr
    assert "sft | goes on after step " in again.stdout
    assert (clone / "dvc.lock").read_text() == lock
    assert "up to date" in run("dvc", "status", "sft").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_evaluation_leaves_no_process(repro: Done, run: Run, clone: Path, number: signal.Signals) -> None:
    before, mark = hashes(clone / "results"), uuid.uuid4().hex
    marked = environment(clone, POSTTRAIN_TEST_RUN=mark)

    def lighteval() -> dict[int, str]:
        return processes(mark=f"POSTTRAIN_TEST_RUN={mark}", command="lighteval_runner.py")

    process = subprocess.Popen([*POSTTRAIN, "evaluate"], cwd=clone, env=marked, stdout=subprocess.DEVNULL)
    wait(lambda: len(lighteval()) == 2, 120)  # with its keeper
    process.send_signal(number)
    assert process.wait(30) == (128 + number if number == signal.SIGTERM else -number)
    wait(lambda: not lighteval(), 1 if number == signal.SIGTERM else 10)
    if number == signal.SIGTERM:
        assert not list((clone / ".posttrain/unpublished").iterdir())
    assert hashes(clone / "results") == before
