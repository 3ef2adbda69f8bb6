"""What travels between clones, with the real DVC and git: two clones of one project and a folder as the remote."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import receipt, stored
from flows.experiment import commit_of, experiment_name, record
from flows.stage_run import run_stage
from posttrain.errors import InputError
from tests.agents import committed

STAGES = {
    "prepare": {"cmd": "cp params.yaml rows", "params": ["seed"], "outs": ["rows"]},
    "sft": {
        "cmd": "cp rows model && cp rows metrics.json",
        "deps": ["rows"],
        "outs": ["model"],
        "metrics": [{"metrics.json": {"cache": False}}],
    },
}


def ignore(line: str) -> None:
    pass


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clones(dvc_project: Callable[..., Path], tmp_path: Path) -> list[Path]:
    home = dvc_project(STAGES)
    (home / "params.yaml").write_text("seed: 1\n")
    (home / ".gitignore").write_text("/rows\n/model\n/metrics.json\n.posttrain\n")
    committed(home)
    found = [tmp_path / "one", tmp_path / "two"]
    for root in found:
        subprocess.run(["git", "clone", "--quiet", home, root], check=True)
        dvc(root, "remote", "add", "--local", "--default", "shared", str(tmp_path / "remote"))
    return found


def stage(name: str, root: Path) -> str:
    """One stage as an agent runs it: what DVC did."""
    fetched = receipt.fetch(name, root, ignore)
    run = run_stage(name, root, ignore, fetched.options)
    if fetched.to_push(run.outcome):
        receipt.push(name, root, ignore)
    return run.outcome


def test_a_stage_runs_on_what_another_clone_made_and_not_twice(clones: list[Path]) -> None:
    one, two = clones
    assert stage("prepare", one) == "ran"
    receipt.take(receipt.merged([receipt.whole(two), receipt.of_stage("prepare", one)]), two)
    assert stage("sft", two) == "ran"
    assert (two / "model").read_text() == "seed: 1\n"

    # The other clone learns of it: nothing to run, and no byte of the model arrives.
    receipt.take(receipt.merged([receipt.whole(one), receipt.of_stage("sft", two)]), one)
    assert (one / "metrics.json").read_text() == "seed: 1\n"
    assert stage("sft", one) == "unchanged"
    assert not (one / "model").exists()
    assert (one / "dvc.lock").read_text() == (two / "dvc.lock").read_text()

    # What is there of another run is not taken for a change of this one.
    (one / "model").write_text("of another run\n")
    assert stage("sft", one) == "unchanged"
    assert not (one / "model").exists()

    # The data is another, and not here: DVC alone would call the stage unchanged.
    (two / "params.yaml").write_text("seed: 2\n")
    assert stage("prepare", two) == "ran"
    (one / "rows").unlink(missing_ok=True)
    receipt.take(receipt.merged([receipt.whole(one), receipt.of_stage("prepare", two)]), one)
    assert "didn't change" in dvc(one, "repro", "--dry", "--single-item", "--allow-missing", "sft")
    assert stage("sft", one) == "ran"
    assert (one / "model").read_text() == "seed: 2\n"


def test_the_lock_is_written_as_dvc_writes_it(clones: list[Path]) -> None:
    one, two = clones
    run_stage("prepare", one, ignore)
    run_stage("sft", one, ignore)
    receipt.take(receipt.whole(one), two)
    assert (two / "dvc.lock").read_text() == (one / "dvc.lock").read_text()


def test_what_is_nowhere_is_made_again_and_what_is_kept_is_not(clones: list[Path]) -> None:
    one, two = clones
    run_stage("prepare", one, ignore)
    run_stage("sft", one, ignore)
    receipt.take(receipt.whole(one), two)  # as a fresh clone has a committed dvc.lock, and its remote nothing
    with pytest.raises(InputError, match="run the chain with them too"):
        receipt.fetch("sft", two, ignore)
    assert stage("prepare", two) == "ran"
    assert (two / "rows").read_text() == "seed: 1\n"
    # The model's bytes are those of the rows, and DVC keeps bytes once.
    assert stage("prepare", two) == stage("sft", two) == "unchanged"

    # What only an agent's cache has goes to the remote without a run.
    shutil.rmtree(one.parent / "remote")
    assert stage("prepare", one) == stage("sft", one) == "unchanged"
    assert stored.where("sft", one).remote


@pytest.mark.parametrize("before", [False, True])
def test_without_a_remote_a_stage_says_what_to_do_before_it_runs(clones: list[Path], before: bool) -> None:
    root = clones[0]
    if before:
        run_stage("prepare", root, ignore)
    dvc(root, "remote", "remove", "--local", "shared")
    with pytest.raises(InputError, match="dvc remote add"):
        receipt.fetch("prepare", root, ignore)


@pytest.mark.parametrize("path", ["../outside", "stage.py", ".git/hooks/post-checkout"])
def test_a_receipt_writes_nothing_but_what_the_graph_names(clones: list[Path], path: str) -> None:
    with pytest.raises(InputError, match=r"what dvc\.yaml names"):
        receipt.take({"lock": {}, "files": {path: "evil"}}, clones[0])
    assert not (clones[0] / path).exists() or (clones[0] / path).read_text() != "evil"


def test_only_commits_travel(clones: list[Path]) -> None:
    root = clones[0]
    (root / "params.yaml").write_text("seed: 7\n")  # travels in the receipt
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout
    assert commit_of(root) == head.strip()
    (root / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(InputError, match=r"uncommitted changes of dvc\.yaml"):
        commit_of(root)


def test_a_run_is_an_experiment_without_its_model_here(clones: list[Path]) -> None:
    one, two = clones
    (two / "params.yaml").write_text("seed: 3\n")
    stage("prepare", two), stage("sft", two)
    receipt.take(receipt.whole(two), one)
    record("brave-lemur", one)
    record("brave-lemur", one)  # a run that was repeated
    assert "brave-lemur" in dvc(one, "exp", "show", "--csv")
    assert not (one / "model").exists()

    for path in ("params.yaml", "dvc.lock", "metrics.json"):
        (one / path).unlink()
    subprocess.run(["git", "checkout", "--quiet", "--", "params.yaml"], cwd=one, check=True)
    apply = [sys.executable, "-m", "dvc", "exp", "apply", "brave-lemur"]
    subprocess.run(apply, cwd=one, check=False, capture_output=True)  # the lock is there, its complaint is of the model
    dvc(one, "pull")
    assert (one / "model").read_text() == (one / "metrics.json").read_text() == "seed: 3\n"


def test_any_name_of_a_run_is_one_for_git() -> None:
    assert experiment_name("brave-lemur") == "brave-lemur"
    assert experiment_name("../lr 1e-5: second..try.lock") == "lr-1e-5-second-try-lock"
    assert experiment_name("\N{SNOWMAN}") == "run"
