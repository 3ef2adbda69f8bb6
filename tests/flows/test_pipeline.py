"""The flow on a real Prefect server and a real DVC project."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL

from flows.pipeline import chosen, main, pipeline
from flows.stage_run import GRACE_S, StageFailed
from posttrain.errors import InputError
from tests.processes import wait

REPOSITORY = Path(__file__).parents[2]
METRICS = '{"verdict": "improved", "sft": {"pass@1": 0.25}, "grpo": {"pass@1": 0.5}}'
STAGES: dict[str, Any] = {
    "prepare": {"cmd": "cp in.txt one.txt", "deps": ["in.txt"], "outs": ["one.txt"]},
    "evaluate": {
        "cmd": f"mkdir -p results/evaluate && echo '{METRICS}' > results/evaluate/metrics.json",
        "deps": ["one.txt"],
        "metrics": [{"results/evaluate/metrics.json": {"cache": False}}],
    },
}


pytestmark = pytest.mark.usefixtures("server")
linux = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")


def task_states() -> list[tuple[str, str]]:
    """Name and state of the tasks of the newest flow run, in the order in which they began."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
    newest = max(runs, key=lambda run: run.start_time).flow_run_id
    mine = sorted((run for run in runs if run.flow_run_id == newest), key=lambda run: run.start_time)
    return [(run.name, run.state_name) for run in mine]


def artifact(key: str) -> str:
    """The newest. Not by `Artifact.get`, which leaves a socket open."""
    with get_client(sync_client=True) as client:
        return next(str(found.data) for found in client.read_latest_artifacts() if found.key == key)


def test_runs_what_changed_and_says_what_it_did(dvc_project, monkeypatch, capsys):
    root = dvc_project(STAGES)
    monkeypatch.chdir(root)
    assert main([]) == 0
    assert task_states() == [("prepare", "Completed"), ("evaluate", "Completed")]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "pipeline | prepare ran, evaluate ran | next: posttrain gate"

    (root / "in.txt").write_text("2\n")
    assert [run.outcome for run in pipeline(["prepare"])] == ["ran"]
    (root / "in.txt").write_text("1\n")
    assert [run.outcome for run in pipeline()] == ["restored", "unchanged"]
    assert task_states() == [("prepare", "Cached"), ("evaluate", "Skipped")]

    table = artifact("posttrain")
    assert "| prepare | restored |" in table
    assert "**improved**: pass@1 0.250 after SFT, 0.500 after GRPO" in table
    assert "'outcome': 'unchanged'" in str(json.loads(artifact("posttrain-stages")))
    assert {"stage": "evaluate", "metric": "sft.pass@1", "value": 0.25} in json.loads(artifact("posttrain-metrics"))


def test_a_failed_stage_fails_the_flow_and_later_stages_do_not_run(dvc_project, monkeypatch):
    later = {"cmd": "cp one.txt two.txt", "deps": ["one.txt"], "outs": ["two.txt"]}
    root = dvc_project({**STAGES, "evaluate": {"cmd": "exit 2", "deps": ["one.txt"]}, "report": later})
    monkeypatch.chdir(root)
    with pytest.raises(StageFailed) as caught:
        pipeline()
    assert (caught.value.stage, caught.value.code) == ("evaluate", 2)
    assert task_states() == [("prepare", "Completed"), ("evaluate", "Failed")]
    assert not (root / "two.txt").exists()


@linux
def test_what_says_75_is_repeated_and_what_takes_too_long_is_ended(dvc_project, worker, running, monkeypatch, capfd):
    busy = {"cmd": "echo tried >> tries; test $(wc -l < tries) -ge 2 || exit 75", "deps": ["in.txt"]}
    root = dvc_project({"prepare": busy, "train": {"cmd": f"{sys.executable} stage.py", "outs": ["out.txt"]}})
    (root / "stage.py").write_text(worker)
    monkeypatch.chdir(root)
    assert main(["prepare"]) == 0
    assert (root / "tries").read_text() == "tried\n" * 2
    assert task_states() == [("prepare", "Completed")]

    assert main(["train", "--timeout-s", "5"]) == 75
    assert task_states() == [("train", "TimedOut")]
    assert running(root) == []
    assert "pipeline | a stage took more than 5 s" in capfd.readouterr().err

    (root / "calm").touch()
    assert main(["--force", "prepare"]) == 0
    assert (root / "tries").read_text() == "tried\n" * 3
    assert task_states() == [("prepare", "Completed"), ("train", "Completed")]


def test_the_command_exits_with_1_and_says_why(dvc_project, monkeypatch, capsys):
    monkeypatch.chdir(dvc_project({"prepare": {"cmd": "exit 2"}}))
    assert main([]) == 1
    assert "pipeline | stage prepare failed: its command exited with 2" in capsys.readouterr().err


def test_an_unknown_stage_is_an_error_that_names_the_known_ones(dvc_project, monkeypatch):
    monkeypatch.chdir(dvc_project(STAGES))
    with pytest.raises(InputError, match="some of prepare, evaluate"):
        pipeline(["prepare", "evalute"])


def test_chosen_stages_keep_the_order_of_the_graph():
    known = ["prepare", "sft", "grpo"]
    assert chosen(None, known) == known
    assert chosen(["grpo", "prepare"], known) == ["prepare", "grpo"]
    with pytest.raises(InputError, match="no stage"):
        chosen([], known)


def prefect_home(folder: Path) -> dict[str, str]:
    """The environment of a Prefect of its own, with a copy of this server's database: making one takes 5 seconds."""
    folder.mkdir()
    ours = PREFECT_SERVER_DATABASE_CONNECTION_URL.value().removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(ours)) as source, closing(sqlite3.connect(folder / "prefect.db")) as target:
        source.backup(target)
    return {"PREFECT_HOME": str(folder)}


def interrupted(root: Path, environment: dict[str, str], interrupt: Callable[[int], None]) -> tuple[int, str]:
    """Exit code and output of the flow as a command, interrupted when its stage's worker is up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    heard = ""
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r"- worker \d+$", line):
                interrupt(process.pid)
            heard += line
    return process.returncode, heard


@linux
def test_a_terminated_flow_leaves_no_process(dvc_project, worker, running):
    root = dvc_project({"train": {"cmd": f"{sys.executable} stage.py", "outs": ["out.txt"]}})
    (root / "stage.py").write_text(worker)
    code, heard = interrupted(
        root, {"PREFECT_API_URL": PREFECT_API_URL.value()}, lambda pid: os.kill(pid, signal.SIGTERM)
    )
    assert code != 0
    assert "termination signal" in heard
    assert running(root) == []


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_flow_that_ends_takes_the_server_of_its_own_with_it(dvc_project, worker, running, tmp_path, number):
    root = dvc_project({"train": {"cmd": f"{sys.executable} stage.py", "outs": ["out.txt"]}})
    (root / "stage.py").write_text(worker)
    began = []

    def end(pid: int) -> None:
        began.append(time.monotonic())
        if number == signal.SIGINT:
            os.killpg(pid, number)  # as a terminal does: to the flow and to its server
        else:
            os.kill(pid, number)

    code, heard = interrupted(root, prefect_home(tmp_path / "prefect"), end)
    assert time.monotonic() - began[0] < 30  # without its server, the flow would go on for more than a minute
    assert code == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert heard.splitlines()[-1].startswith("pipeline | interrupted")
        assert running(root) == []
    wait(lambda: not running(root), GRACE_S + 10)


def test_imports_nothing_heavy(modules_after):
    heavy = {
        "torch",
        "transformers",
        "trl",
        "datasets",
        "dvc",
        "posttrain.evaluation.metrics",
        "posttrain.rewards.scoring",
    }
    assert modules_after("flows.pipeline").isdisjoint(heavy)
