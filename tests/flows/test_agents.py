"""A server, two agents and a shared remote: what runs where, what runs twice, and what a cancellation leaves behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.agents import HEARTBEAT_S
from posttrain.graph import graph
from posttrain.params.file import read_yaml
from tests.agents import REPOSITORY, STAGE_MARK, Site, path_with_gpus, site, trivial_project
from tests.processes import processes, wait

WORDS = ["prepare", "sft", "grpo", "evaluate", "report"]

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Agents on machines with two GPUs, as far as the driver's listing goes."""
    folder = tmp_path_factory.mktemp("site")
    home, remote = trivial_project(folder / "home"), {"url": str(folder / "remote")}
    with site(folder, home, remote, REPOSITORY, PATH=path_with_gpus(folder, 2)) as made:
        yield made


def test_a_stage_stopped_with_75_is_repeated_and_the_rest_follows(made: Site) -> None:
    (made.clone("gpu") / "code").write_text("75")
    run = made.submit(set={"seed": 4})
    assert made.over(run)["state"]["message"] == "prepare ran, sft ran, report ran", made.said(run)
    sft = made.children(run)["sft"]["id"]
    counts = {task["name"]: task["run_count"] for task in made.tasks(sft)}
    assert counts == {"fetch what sft needs": 1, "sft": 2, "push what sft made": 1}

    # Each stage was where prefect.yaml says: the model came to the CPU agent because report reads it.
    assert not (made.clone("gpu") / "results/report.html").exists()
    assert (made.clone("cpu") / "results/report.html").read_text().count("seed: 4") == 2
    experiments = made.run(made.clone("cpu"), "dvc", "exp", "show", "--csv")
    (row,) = [line for line in experiments.splitlines() if made.flow_run(run)["name"] in line]
    assert ",4," in row, experiments

    assert "takes 2 of gpus of" in made.said(sft)
    assert "would leave" not in made.said(sft)  # the site's server keeps its leases
    limits = made.ask("POST", "/v2/concurrency_limits/filter", {})
    (limit,) = [limit for limit in limits if limit["name"].startswith("gpus of ")]
    assert (limit["limit"], limit["active_slots"]) == (2, 0)


def test_params_are_checked_before_anything_runs(made: Site) -> None:
    run = made.submit(set={"grpo.bta": 1})
    state = made.over(run)["state"]
    assert state["message"].startswith("the overrides: grpo.bta"), state
    assert "Traceback" not in made.said(run)
    assert made.children(run) == {}


def test_a_wrong_input_is_not_repeated_and_says_why(made: Site) -> None:
    (made.clone("gpu") / "code").write_text("2")
    run = made.submit(stages=["prepare", "sft"], set={"seed": 2})
    state = made.over(run)["state"]
    assert state["type"] == "FAILED"
    assert f"In flow run 'sft of {made.flow_run(run)['name']}', Failed" in state["message"]
    assert "its command exited with 2" in state["message"]
    assert made.states(run) == {"prepare": "Completed", "sft": "Failed"}
    sft = made.children(run)["sft"]["id"]
    assert [task["run_count"] for task in made.tasks(sft) if task["name"] == "sft"] == [1]
    said = made.said(sft)
    assert "stage sft failed: its command exited with 2; the output ends:\n  Running" in said
    assert "\\n" not in said
    assert "Traceback" not in said


def test_a_cancelled_chain_leaves_nothing_and_the_same_command_goes_on(made: Site) -> None:
    gpu = made.clone("gpu")
    for name in ("slow", "stubborn"):
        (gpu / name).touch()
    run = made.submit(stages=["prepare", "sft"])
    wait(lambda: processes(gpu, STAGE_MARK, "time.sleep(0.05)"), 240)
    made.cancel(run)
    wait(lambda: not made.stage_processes(), 30)
    assert made.over(run)["state"]["name"] == "Cancelled"
    wait(lambda: made.states(run)["sft"] == "Cancelled", 30, 0.5)
    assert made.locks("gpu") == []

    for name in ("slow", "stubborn"):
        (gpu / name).unlink()
    again = made.submit(stages=["prepare", "sft"])
    assert made.over(again)["state"]["message"] == "prepare unchanged, sft ran"
    prepare = made.tasks(made.children(again)["prepare"]["id"])
    assert {task["name"] for task in prepare} == {"fetch what prepare needs", "prepare"}  # and no push
    # The other params of the runs before were theirs alone: these are the commit's.
    assert (gpu / "models/sft/weights").read_text() == "seed: 1\n"


def test_an_agent_at_another_commit_says_what_to_do(made: Site) -> None:
    deployment = made.ask("GET", "/deployments/name/posttrain-stage/sft")["id"]
    wanted = {"parameters": {"stage": "sft", "commit": "5e" * 20}}
    run = made.ask("POST", f"/deployments/{deployment}/create_flow_run", wanted)["id"]
    assert f"git fetch && git checkout {'5e' * 20}" in made.over(run)["state"]["message"]


def test_the_automation_is_one_that_this_prefect_takes(made: Site) -> None:
    made.run(REPOSITORY, "prefect", "automation", "create", "--from-file", "automations.yaml")
    (automation,) = made.ask("POST", "/automations/filter", {})
    assert automation["enabled"]
    assert automation["trigger"]["within"] == 3 * HEARTBEAT_S


def test_each_stage_has_a_deployment_and_nothing_runs_by_itself() -> None:
    deployments = {item["name"]: item for item in read_yaml(REPOSITORY / "prefect.yaml")["deployments"]}
    assert list(deployments) == ["run", *WORDS]
    assert list(graph(REPOSITORY)) == WORDS
    assert all(deployments[word]["parameters"] == {"stage": word} for word in WORDS)
    pools = {word: deployments[word]["work_pool"]["name"] for word in WORDS}
    assert pools == {"prepare": "cpu", "sft": "gpu", "grpo": "gpu", "evaluate": "cpu", "report": "cpu"}
    assert not any(schedule["active"] for schedule in deployments["run"]["schedules"])
