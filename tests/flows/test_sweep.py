"""Sweeps: real child runs in processes and worktrees of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flows.chart import intervals
from flows.child_runs import Point
from flows.stage_run import GRACE_S
from flows.sweep import WIDTH, PointRun, PointsFailed, aligned, main, parameters_of, points_of, sweep
from posttrain.errors import InputError
from tests.processes import wait

pytestmark = pytest.mark.usefixtures("server")
linux = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")
REPOSITORY = Path(__file__).parents[2]


def test_points_are_all_combinations_or_as_they_are():
    assert points_of({"a": [1, 2], "b": [True]}) == [{"a": 1, "b": True}, {"a": 2, "b": True}]
    assert points_of([{"a": 1}, {"b": 2}, {"a": 1}]) == [{"a": 1}, {"b": 2}]
    for nothing in ({}, [], {"a": []}, [{}]):
        with pytest.raises(InputError, match="no point"):
            points_of(nothing)


def test_a_sweep_runs_its_points_and_survives_one_that_fails(training, ran, experiments):
    with pytest.raises(PointsFailed, match=r"1 of 3 points failed: grpo.beta=0.25"):
        sweep({"grpo.beta": [0.125, 0.25, 0.5]}, concurrency=2)
    did = ran()
    assert did.count("grpo 1 0.125") == did.count("grpo 1 0.25") == did.count("grpo 1 0.5") == 1
    assert [line.split()[0] for line in did].count("prepare") == 1  # the points share it, and two began at once

    found = experiments(training)
    betas = {data["params"]["params.yaml"]["data"]["grpo"]["beta"] for data in found.values()}
    assert betas == {0.125, 0.5}
    [kept] = (training / ".posttrain/worktrees").iterdir()
    assert kept.name.startswith("beta-0-25-")

    with get_client(sync_client=True) as client:
        shown = {artifact.key: artifact.data for artifact in client.read_latest_artifacts()}
        runs = {run.name: run for run in client.read_flow_runs()}
    rows = json.loads(shown["posttrain-sweep"])
    assert [(row["grpo.beta"], row.get("pass@1"), row["state"]) for row in rows] == [
        (0.5, 0.5, "Completed"),
        (0.125, 0.125, "Completed"),
        (0.25, None, "Failed"),
    ]
    assert rows[0]["gain"] == "+0.500 [+0.250, +0.500]"
    assert shown["posttrain-sweep-chart"].startswith("data:image/svg+xml;base64,")
    for name in [*found, kept.name]:
        assert runs[name].parent_task_run_id is not None


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_points_of_a_sweep_end_with_it(training, running, number):
    (training / "stage.py").write_text("import time; print('up', flush=True); time.sleep(600)")
    subprocess.run(["git", "commit", "--quiet", "-am", "slow"], cwd=training, check=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": PREFECT_API_URL.value()}
    command = [sys.executable, "-m", "flows.sweep", "seed=5", "--stages", "prepare"]
    with subprocess.Popen(
        command, cwd=training, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        [tree] = until(process, lambda: [*training.glob(".posttrain/worktrees/*")])
        until(process, lambda: any("stage.py" in line for line in running(tree)))
        os.killpg(process.pid, number)
        assert process.stderr is not None
        heard = process.stderr.read()
        assert process.wait(60) == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert heard.splitlines()[-1].startswith("sweep | interrupted")
        assert running(tree) == running(training) == []
    wait(lambda: not running(tree) and not running(training), 3 * GRACE_S)


def until(process, condition):
    """What a condition comes to, once it comes to something."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_the_command_takes_lists_and_says_what_is_wrong(training, capsys):
    parameters = parameters_of(["grpo.beta=0.1,0.2", "grpo.loss_type=dapo", "--stages", "grpo", "prepare"])
    assert parameters["grid"] == {"grpo.beta": [0.1, 0.2], "grpo.loss_type": ["dapo"]}
    assert parameters["stages"] == ["prepare", "grpo"]
    assert main(["grpo.beta=0.1,much"]) == 2
    assert "grpo.beta\n  got     'much'" in capsys.readouterr().err
    assert main(["grpo.beta="]) == 2


def test_a_chart_shows_each_row_and_no_markup_of_its_name():
    svg = intervals([("<b>seed</b>", 0.25, 0.5, 0.75), ("seed=2", 0, 0, 0)], "pass@1")
    assert "&lt;b&gt;seed&lt;/b&gt;" in svg
    assert len(re.findall("<circle", svg)) == 2
    left, middle, right = (float(found) for found in re.findall(r'text x="([\d.]+)" y="\d+" text-anchor', svg)[1:4])
    assert f'd="M{left} 36H{right}"' in svg
    assert f'cx="{middle}"' in svg


def test_the_table_of_the_console_is_aligned_and_fits():
    metrics = {"verdict": "improved", "grpo": {"pass@1": 0.5}, "gain": {"mean": 0.1, "low": 0.0, "high": 0.2}}
    long = Point("a", {"grpo.learning_rate": 1e-6, "sft.learning_rate": 1e-5, "grpo.num_generations": 16, "seed": 2})
    runs = [PointRun(Point("b", {"seed": 1}), "Failed", None), PointRun(long, "Completed", metrics)]
    head, best, failed = aligned(runs).splitlines()
    assert max(map(len, (head, best, failed))) <= WIDTH
    assert "seed=2" in best
    assert [line.index(word) for line, word in ((head, "state"), (best, "Completed"), (failed, "Failed"))] == [
        head.index("state")
    ] * 3
