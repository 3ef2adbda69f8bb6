"""Runs with other params: real worktrees, experiments and Prefect."""

import logging
import subprocess
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows.pipeline import main
from flows.worktree import experiment_name

pytestmark = pytest.mark.usefixtures("server")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def test_other_params_run_in_a_worktree_and_become_an_experiment(training, ran, experiments, caplog, capsys):
    caplog.set_level(logging.INFO, "prefect")  # another run in this process may have left it quiet
    before = (training / "params.yaml").read_text()
    command = ["--recipe", "third", "--set", "grpo.beta=0.5", "grpo.max_steps=77"]
    assert main(command) == 1
    assert "kept .posttrain/worktrees/third-beta-0-5-max_steps-77-" in caplog.text
    [kept] = (training / ".posttrain/worktrees").iterdir()
    assert ran() == ["prepare 3 0.5", "grpo 3 0.5"]
    assert not experiments(training)

    assert main(command) == 0
    assert ran() == ["grpo 3 0.5", "evaluate 3 0.5"]  # in the same worktree, so prepare did not have to
    assert capsys.readouterr().out.splitlines()[-1].endswith("next: dvc exp show")
    assert git(training, "show", f"{exps(training)[kept.name]}:results/evaluate.json") == '{"grpo": 0.5}'
    [(name, data)] = experiments(training).items()
    assert name == kept.name
    assert data["params"]["params.yaml"]["data"]["grpo"]["beta"] == 0.5
    assert data["metrics"]["results/evaluate.json"]["data"]["grpo"] == 0.5

    assert (training / "params.yaml").read_text() == before
    assert git(training, "status", "--porcelain") == ""
    assert not kept.exists()
    assert len(git(training, "worktree", "list").splitlines()) == 1
    with get_client(sync_client=True) as client:
        shown = {found.key: found for found in client.read_latest_artifacts()}
    assert shown["posttrain-grpo"].data == 100
    assert shown["posttrain-grpo"].description == "grpo 2/2 | reward/accuracy 1.0"
    assert "**improved**: pass@1 0.000 after SFT, 0.500 after GRPO; gain +0.500 [+0.250, +0.500]" in str(
        shown["posttrain"].data
    )

    assert main(["prepare", "--recipe", "third"]) == 0
    assert ran() == []  # restored from the cache that the worktrees share
    partial = experiments(training)
    [other] = set(partial) - {name}
    assert other.startswith("third-")


def exps(root: Path) -> dict[str, str]:
    references = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    return {reference.rpartition("/")[2]: reference for reference in references}


def test_data_that_git_ignores_counts(training, ran):
    assert main(["prepare"]) == 0
    assert (training / "one.txt").read_text() == "mine"
    assert ran() == ["prepare 1 0.01"]
    assert main(["prepare", "--set", "sft.batch_size=8"]) == 0
    assert ran() == []  # DVC found the same data in the worktree


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "grpo.num_generation=8"], "did you mean `num_generations`?"),
        (["--set", "grpo.num_generations=1"], "greater than or equal to 2"),
        (["--set", "grpo.beta"], "grpo.beta\n  got     no KEY=VALUE"),
        (["--recipe", "fourth"], "one of: third, tiny"),
        (["--force", "gpro"], "some of prepare, grpo, evaluate"),
    ],
)
def test_wrong_input_is_told_before_anything_runs(training, ran, capsys, arguments, told):
    assert main(arguments) == 2
    assert told in capsys.readouterr().err
    assert ran() == []


def test_uncommitted_changes_are_refused(training, ran, capsys):
    (training / "params.yaml").write_text((training / "params.yaml").read_text().replace("seed: 1", "seed: 2"))
    (training / "notes.txt").write_text("no stage reads this")
    (training / "posttrain").mkdir()
    (training / "posttrain/run_stage.py").write_text("# the library, also where no stage names it")
    assert main(["--set", "grpo.beta=0.5"]) == 2
    told = capsys.readouterr().err
    assert "got     params.yaml, posttrain/run_stage.py\n" in told
    assert ran() == []


def test_a_name_has_words_and_tells_params_apart():
    one = experiment_name("c0ffee", "seed: 1\n", None, {"sft.learning_rate": 1e-05, "seed": 1})
    assert one.startswith("seed-1-learning_rate-1e-05-")
    assert one == experiment_name("c0ffee", "seed: 1\n", None, {"seed": 1, "sft.learning_rate": 1e-05})
    assert one != experiment_name("c0ffee", "seed: 2\n", None, {"seed": 1, "sft.learning_rate": 1e-05})
    assert one != experiment_name("decaf", "seed: 1\n", None, {"seed": 1, "sft.learning_rate": 1e-05})
    assert len(experiment_name("c0ffee", "", "r" * 100, {})) < 60
