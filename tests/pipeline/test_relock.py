"""`posttrain relock`: comments change dvc.lock and run nothing; whatever else changed in code is DVC's to run."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clone import copy_project
from tests.pipeline.conftest import POSTTRAIN, Run, initialised, runner

EQUATIONS = Path("posttrain/data/equations.py")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which prepare has run, and its result is in a commit."""
    folder = tmp_path_factory.mktemp("relock") / "ran"
    folder.mkdir()
    copy_project(folder)
    run = initialised(folder)
    done = run("dvc", "repro", "--single-item", "prepare")
    assert done.returncode == 0, done.stderr
    run("git", "add", "-A")
    assert run("git", "commit", "-qm", "results").returncode == 0
    return folder


@pytest.fixture
def root(ran: Path, tmp_path: Path) -> Path:
    """A copy of it, with its outs and DVC's cache."""
    return Path(shutil.copytree(ran, tmp_path / "root", symlinks=True))


@pytest.fixture
def run(root: Path) -> Run:
    return runner(root)


def comment(root: Path) -> None:
    path = root / EQUATIONS
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f'"""Another docstring.\n{rest}# A comment that makes the file longer.\n')
    assert first.startswith('"""')


def test_a_comment_runs_nothing(root: Path, run: Run) -> None:
    comment(root)
    assert "modified:" in run("dvc", "status", "prepare").stdout
    done = run(*POSTTRAIN, "relock")
    assert done.returncode == 0, done.stderr
    assert "for prepare" in done.stdout
    assert "up to date" in run("dvc", "status", "prepare").stdout
    assert "Stage 'prepare' didn't change, skipping" in run("dvc", "repro", "prepare").stdout
    assert run(*POSTTRAIN, "verify", "data/prepared").returncode == 0
    again = run(*POSTTRAIN, "relock")
    assert "is of the code that is here" in again.stdout


def test_other_params_and_back_run_nothing_either(root: Path, run: Run) -> None:
    comment(root)
    assert run(*POSTTRAIN, "relock").returncode == 0
    params = root / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("test_frac: 0.2", "test_frac: 0.3"))
    assert "Running stage 'prepare'" in run("dvc", "repro", "prepare").stdout
    params.write_text(text)
    assert "Stage 'prepare' is cached - skipping run" in run("dvc", "repro", "prepare").stdout


def test_a_clone_without_outs_is_enough(ran: Path, tmp_path: Path) -> None:
    root = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", str(ran), str(root)], check=True)
    run = runner(root)
    before = (root / "dvc.lock").read_text().splitlines()
    comment(root)
    done = run(*POSTTRAIN, "relock")
    assert done.returncode == 0, done.stderr
    after = (root / "dvc.lock").read_text().splitlines()
    lines = [line.split(":") for pair in zip(before, after, strict=True) if pair[0] != pair[1] for line in pair]
    assert [key.strip() for key, _ in lines] == ["md5", "md5", "size", "size"]
    assert json.loads(run("dvc", "status", "--json", "prepare").stdout) == {
        "prepare": [{"changed outs": {"data/prepared": "not in cache"}}]
    }


def changed(root: Path) -> str:
    path = root / EQUATIONS
    path.write_text(path.read_text().replace("random() < 0.5", "random() < 0.6"))
    return f"{EQUATIONS}\n"


def added(root: Path) -> str:
    (root / "posttrain/data/more.py").touch()
    return "posttrain/data/more.py added\n"


def removed(root: Path) -> str:
    (root / EQUATIONS).unlink()
    return f"{EQUATIONS} removed\n"


def moved(root: Path) -> str:
    (root / EQUATIONS).rename(root / "posttrain/judge/equations.py")
    return f"posttrain/judge/equations.py added, {EQUATIONS} removed\n"


def another_dep(root: Path) -> str:
    graph = root / "dvc.yaml"
    graph.write_text(graph.read_text().replace("- posttrain/data\n", "- posttrain/data\n      - posttrain/launch\n", 1))
    return "posttrain/launch added or removed\n"


def run_since(root: Path) -> str:
    """A dvc.lock of code that git does not have."""
    changed(root)
    assert runner(root)("dvc", "repro", "prepare").returncode == 0
    comment(root)
    return "posttrain/data of other code than that of commit"


def forgotten(root: Path) -> str:
    """A project whose git never had dvc.lock."""
    shutil.rmtree(root / ".git")
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "one"]):
        assert runner(root)("git", *command).returncode == 0
    comment(root)
    return "no commit that has it\n"


@pytest.mark.parametrize("change", [changed, added, removed, moved, another_dep, run_since, forgotten])
def test_whatever_else_changed_is_refused(root: Path, run: Run, change: Callable[[Path], str]) -> None:
    named = change(root)
    before = (root / "dvc.lock").read_bytes()
    done = run(*POSTTRAIN, "relock")
    assert done.returncode == 2
    assert f"got     {named}" in done.stderr
    assert "dvc repro" in done.stderr
    assert (root / "dvc.lock").read_bytes() == before


def test_a_project_that_never_ran_has_nothing_to_relock(root: Path, run: Run) -> None:
    (root / "dvc.lock").unlink()
    done = run(*POSTTRAIN, "relock")
    assert done.returncode == 2
    assert "dvc.lock\n  got     no such file" in done.stderr
