"""What TensorBoard, Weights & Biases and trackio are told, read back from the files that they write."""

import json
import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.training import install as install_module
from posttrain.training import trackers
from posttrain.training.install import install
from posttrain.training.trackers import REQUIREMENTS, figures, place_trackers, run_name
from tests.conftest import ParamsWith

# As each stage does it, in a process of its own: where trackers write is settled before they are imported.
STAGES = """
import sys
from pathlib import Path
from posttrain.params.file import load_params
from posttrain.training.trackers import Trackers, place_trackers
place_trackers()
params = load_params(Path("params.yaml"))
for stage, names in (("sft", ["loss"]), ("grpo", ["loss", "reward/accuracy", "policy/kl_divergence"])):
    run = Trackers(stage, params)
    for step in (1, 2):
        run.scalars(dict.fromkeys(names, step / 4), step)
    run.event("health/entropy_low", "entropy_low: 0.01 | below 0.1", 2)
    run.table("samples", [{"problem": "1 | 2", "after": {"completion": "<think>\\nyes"}}], 2)
    run.close()
"""
NAMES = {"sft/loss", "grpo/loss", "reward/accuracy", "policy/kl_divergence"}


def need(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: posttrain[trackers]")


def write(project: Path, params_with: ParamsWith, tracker: str) -> str:
    """Both stages' lines in one tracker; the name of their run."""
    params = params_with({"launch.report_to": [tracker]})
    (project / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))
    root = Path(__file__).parents[2]
    alone = {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root), "WANDB_SILENT": "true"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
    done = subprocess.run(
        [sys.executable, "-c", STAGES], env=environment | alone, capture_output=True, text=True, timeout=140
    )
    assert done.returncode == 0, done.stderr
    return run_name(params)


def test_tensorboard_has_both_stages_in_one_run(project: Path, params_with: ParamsWith) -> None:
    need("tensorboard")
    write(project, params_with, "tensorboard")
    name = write(project, params_with, "tensorboard")  # again: in place of the first
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.io_wrapper import ListDirectoryAbsolute

    [folder] = (project / ".posttrain/logs/tensorboard").iterdir()
    assert folder.name == name
    assert len(list(ListDirectoryAbsolute(str(folder)))) == 2
    read = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    read.Reload()
    assert set(read.Tags()["scalars"]) == NAMES
    assert [(one.step, one.value) for one in read.Scalars("reward/accuracy")] == [(1, 0.25), (2, 0.5)]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert texts["health/entropy_low/text_summary"] == "entropy_low: 0.01 | below 0.1"
    assert "| 1 \\| 2 | &lt;think><br>yes |" in texts["grpo/samples/text_summary"]
    assert '"max_steps"' in texts["grpo/params/text_summary"]


def test_trackio_writes_to_the_documented_place(project: Path, params_with: ParamsWith) -> None:
    need("trackio")
    name = write(project, params_with, "trackio")
    with sqlite3.connect(project / ".posttrain/logs/trackio/posttrain.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        [[config]] = database.execute("select config from configs").fetchall()
        alerts = database.execute("select title, text from alerts").fetchall()
    logged = [(step, json.loads(values)) for _, step, values in rows]
    assert {run for run, _, _ in rows} == {name}
    assert {key for _, values in logged for key in values} >= NAMES
    assert [(step, row["reward/accuracy"]) for step, row in logged if "reward/accuracy" in row] == [(1, 0.25), (2, 0.5)]
    assert "max_steps" in json.loads(config)["grpo"]
    assert ("health/entropy_low", "entropy_low: 0.01 | below 0.1") in alerts
    assert any("yes" in json.dumps(row["grpo/samples"]) for _, row in logged if "grpo/samples" in row)


def test_wandb_keeps_one_run_offline(project: Path, params_with: ParamsWith) -> None:
    need("wandb")
    name = write(project, params_with, "wandb")
    files = sorted((project / ".posttrain/logs/wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{name}.wandb"] * 2  # a stage each, of one id
    first, second = (file.read_bytes() for file in files)
    assert b"sft/loss" in first
    assert b"grpo/loss" not in first
    for name in ("grpo/loss", "reward/accuracy", "policy/kl_divergence", "health/entropy_low", "grpo/samples"):
        assert name.encode() in second
    [table] = files[1].parent.glob("files/media/table/grpo/*.json")
    assert json.loads(table.read_text())["data"] == [["1 | 2", "<think>\nyes"]]


def test_the_run_is_named_by_what_decides_its_result(params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    name = run_name(params_with({}))
    assert name.startswith("scratch-")
    assert run_name(params_with({"launch.micro_batch_size": 3})) == name
    assert run_name(params_with({"grpo.beta": 0.5})) != name
    monkeypatch.setenv("DVC_EXP_NAME", "longer")
    assert run_name(params_with({})) == name.replace("scratch", "longer")


def test_a_temporary_workspace_writes_to_its_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = project / ".dvc/tmp/exps/standalone/tmp1"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    for name in ("WANDB_DIR", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    place_trackers()
    assert os.environ["TRACKIO_DIR"] == str(project / ".posttrain/logs/trackio")


def test_the_command_installs_into_this_environment(
    params_with: ParamsWith, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        trackers.require_trackers(params_with({"launch.report_to": ["trackio"]}).launch)
    assert caught.value.do == install(REQUIREMENTS["trackio"])
    for pip, tool in ((None, "uv pip install --python"), (object(), "-m pip install")):
        monkeypatch.setattr(install_module, "find_spec", lambda name, found=pip: found)
        assert tool in install("wandb")
        assert sys.executable in install("wandb")


def test_figures_are_the_numbers_alone() -> None:
    nested: dict[str, Any] = {"gain": {"mean": 0.5}, "verdict": "improved", "gate": {"passed": True, "min": None}}
    assert figures(nested) == {"gain/mean": 0.5, "gate/passed": 1.0}
