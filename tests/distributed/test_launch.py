"""The real command in two gloo processes: the strategies, a lost rank, what is left running, what is published.

`make test` kills one command, `make test-slow` takes ZeRO-3 through the loss of a rank, `make test-distributed` runs
every strategy, compares bytes with a run that lost none, and goes through the whole kill matrix.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.distributed.launched import ROOT, Launched
from tests.forks import Run, hashes, workspace

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

EXHAUSTIVE = pytest.mark.exhaustive
STRATEGIES = [
    *(pytest.param(name, True, marks=EXHAUSTIVE) for name in ("ddp", "zero2", "zero3")),
    pytest.param("zero3", False, marks=pytest.mark.slow),
]
"""And whether the run is made once more without a loss."""
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": False}

# What killed it, and the exit code. A crash is a fault of the program, a rank that was killed may be started again.
KILLS = {
    "rank 1 SIGKILL": 75,
    "rank 0 SIGKILL": 75,
    "rank 1 SIGSEGV": 1,
    "launcher SIGKILL": 75,
    "command SIGTERM": 75,
    "command SIGINT": 75,
    "command SIGKILL": -9,
}
BY_DEFAULT = ("command SIGKILL",)


@pytest.fixture(scope="module")
def one(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which one process has trained sft and grpo."""
    root = workspace(tmp_path_factory.mktemp("one"), {"launch": {"threads": 1}})
    for stage in ("prepare", "sft", "grpo"):
        run = Run(forks, root, stage)
        assert run.wait() == 0, run.output()
    return root


def command(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "posttrain", *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_of(one: Path, tmp_path: Path, *stages: str) -> Path:
    """The workspace without what these stages made."""
    root = tmp_path / "workspace"
    shutil.copytree(one, root, ignore=shutil.ignore_patterns(".posttrain"))
    for stage in stages:
        for folder in ("models", "results"):
            shutil.rmtree(root / folder / stage)
    return root


def column(root: Path, stage: str, name: str) -> list[float]:
    head, *rows = (root / "results" / stage / "curve.tsv").read_text().splitlines()
    place = head.split("\t").index(name)
    return [float(row.split("\t")[place]) for row in rows]


def finish(root: Path, stage: str, strategy: str, **launch: object) -> str:
    run = Launched(root, stage, strategy, **launch)
    assert run.wait() == 0, run.output()
    return run.output()


@pytest.mark.parametrize(("strategy", "again"), STRATEGIES)
def test_two_processes_train_as_one_and_survive_the_loss_of_a_rank(
    strategy: str, again: bool, one: Path, tmp_path: Path
) -> None:
    root = copy_of(one, tmp_path, "sft", "grpo")
    told = finish(root, "sft", strategy)
    assert f"sft | {strategy}, 2 processes, cpu" in told
    assert column(root, "sft", "loss") == pytest.approx(column(one, "sft", "loss"), rel=1e-4)
    assert_plain(root / "models/sft", like=one / "models/sft", within=1e-4)

    lost = Launched(root, "grpo", strategy, checkpoint_every_s=0)
    lost.until_saved(3)
    os.kill(lost.rank(1), signal.SIGKILL)
    assert lost.process.wait(10) == 75, lost.output()
    assert lost.seconds_to_nothing(10) < 10
    assert "worker 1" in lost.output()
    assert "SIGKILL" in lost.output()
    assert "goes on after step" in finish(root, "grpo", strategy)
    assert_plain(root / "models/grpo", like=one / "models/grpo", within=0.1)
    resumed = hashes(root, "grpo")

    if again:
        shutil.rmtree(root / "models/grpo")
        assert "goes on" not in finish(root, "grpo", strategy)
        assert hashes(root, "grpo") == resumed


def assert_plain(folder: Path, like: Path, within: float) -> None:
    """A folder that transformers loads by itself, with the files of one that one process made, nearly its weights."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in like.iterdir()}
    model, other = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, like))
    assert model.dtype == torch.float32
    weights = dict(model.named_parameters())
    for name, value in other.named_parameters():
        assert torch.allclose(weights[name], value, atol=within), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (folder, like)]
    assert manifests[0]["model"] == manifests[1]["model"]


@pytest.mark.parametrize(
    "kill", [kill if kill in BY_DEFAULT else pytest.param(kill, marks=EXHAUSTIVE) for kill in KILLS]
)
def test_nothing_is_left_running_and_the_exit_code_says_why(kill: str, one: Path, tmp_path: Path) -> None:
    root = copy_of(one, tmp_path, "grpo")
    run = Launched(root, "grpo", "ddp", checkpoint_every_s=0)
    run.until_saved(2)
    whom, name = kill.rsplit(" ", 1)
    pid = {"command": lambda: run.process.pid, "launcher": run.launcher}.get(whom, lambda: run.rank(int(whom[-1])))()
    os.kill(pid, getattr(signal, name))
    assert run.seconds_to_nothing(10) < 10
    assert run.process.wait(10) == KILLS[kill], run.output()
    assert "goes on after step" in finish(root, "grpo", "ddp")


@EXHAUSTIVE
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_adapters_are_merged(strategy: str, tmp_path: Path) -> None:
    root = workspace(tmp_path, {"launch": {"threads": 1}, "model": {"lora": LORA}})
    for stage in ("prepare", "sft"):
        command(root, stage)
    losses, one = column(root, "sft", "loss"), tmp_path / "one"
    shutil.move(root / "models/sft", one)
    finish(root, "sft", strategy)
    assert column(root, "sft", "loss") == pytest.approx(losses, rel=1e-4)
    assert_plain(root / "models/sft", like=one, within=1e-4)


@EXHAUSTIVE
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_bfloat16_with_master_weights_is_published_in_the_dtype_of_params(strategy: str, tmp_path: Path) -> None:
    root = workspace(tmp_path, {"launch": {"threads": 1, "mixed_precision": "bf16"}, "model": {"dtype": "bfloat16"}})
    command(root, "prepare")
    finish(root, "sft", strategy)
    assert AutoModelForCausalLM.from_pretrained(root / "models/sft").dtype == torch.bfloat16


@EXHAUSTIVE
def test_two_machines_find_each_other(one: Path, tmp_path: Path) -> None:
    root = copy_of(one, tmp_path, "sft", "grpo")
    machines = [
        Launched(root, "sft", "ddp", machines=2, machine_rank=rank, main_address="127.0.0.1:29571") for rank in (0, 1)
    ]
    assert [machine.wait() for machine in machines] == [0, 0], [machine.output() for machine in machines]
    assert column(root, "sft", "loss") == pytest.approx(column(one, "sft", "loss"), rel=1e-4)
