"""In a folder that the environment was not made for, what runs is the folder's own code, which DVC records.

The environment is that of these tests, whose `posttrain` is the repository's. The folder is a clone in which the traces
end with another word than the repository's.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest

from flows.stage_run import run_stage
from posttrain.params.file import read_yaml
from tests.clone import copy_project
from tests.pipeline.conftest import POSTTRAIN, Run, environment, initialised, runner
from tests.processes import processes, wait

PREPARE = ("repro", "--single-item", "prepare")
CODE = "posttrain/data"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that no environment was made for."""
    target = tmp_path_factory.mktemp("other")
    copy_project(target)
    initialised(target)
    return target


@pytest.fixture
def run(other: Path) -> Run:
    return runner(other)


def say(folder: Path, word: str) -> None:
    """Have the teacher's traces call their verification by another word."""
    path = folder / CODE / "equations.py"
    text, count = re.subn(r'check = f"\w+:', f'check = f"{word}:', path.read_text())
    assert count == 1
    path.write_text(text)


def said(folder: Path) -> set[str]:
    """The words by which the prepared traces call it."""
    return set(re.findall(r"\\n(\w+): \d", (folder / "data/prepared/sft.jsonl").read_text()))


def md5_of(folder: Path) -> str:
    """The hash of a folder as dvc.lock has it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    rows = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": str(path.relative_to(folder))} for path in files
    ]
    return hashlib.md5(json.dumps(rows).encode()).hexdigest() + ".dir"


def recorded(folder: Path) -> str:
    """The hash of the code in dvc.lock."""
    deps = read_yaml(folder / "dvc.lock")["stages"]["prepare"]["deps"]
    return str(next(dep["md5"] for dep in deps if dep["path"] == CODE))


def ran_own_code(folder: Path, word: str, run: Run) -> None:
    assert said(folder) == {word}
    assert recorded(folder) == md5_of(folder / CODE)
    verified = run(*POSTTRAIN, "verify", "data/prepared")
    assert verified.returncode == 0, verified.stdout
    assert "ok      data/prepared: code" in verified.stdout


def test_dvc_repro_runs_the_code_of_the_folder(other: Path, run: Run) -> None:
    say(other, "Repeated")
    done = run("dvc", *PREPARE)
    assert done.returncode == 0, done.stderr
    ran_own_code(other, "Repeated", run)


def test_the_command_of_the_environment_is_refused(other: Path, run: Run) -> None:
    done = run("posttrain", "prepare")
    assert done.returncode == 2
    assert "python -m posttrain prepare" in done.stderr


def test_a_worktree_runs_its_own_code(other: Path, run: Run, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    assert run("git", "worktree", "add", "--quiet", "--detach", str(tree)).returncode == 0
    say(tree, "Branched")
    done = runner(tree)("dvc", *PREPARE)
    assert done.returncode == 0, done.stderr
    ran_own_code(tree, "Branched", runner(tree))


def test_an_experiment_in_a_temporary_folder_runs_the_code_of_the_workspace(other: Path, run: Run) -> None:
    say(other, "Apart")
    done = run("dvc", "exp", "run", "--temp", "--name", "apart", "--single-item", "prepare")
    assert done.returncode == 0, done.stderr
    take(run, "apart")
    ran_own_code(other, "Apart", run)


def test_a_queued_experiment_runs_the_code_of_when_it_was_queued(
    other: Path, run: Run, request: pytest.FixtureRequest
) -> None:
    say(other, "Queued")
    done = run("dvc", "exp", "run", "--queue", "--name", "queued", "--single-item", "prepare")
    assert done.returncode == 0, done.stderr
    say(other, "Later")
    request.addfinalizer(lambda: wait(lambda: not processes(mark=f"DVC_SITE_CACHE_DIR={site(other)}"), 60))
    request.addfinalizer(lambda: run("dvc", "queue", "stop", "--kill"))
    assert run("dvc", "queue", "start", "--jobs", "1").returncode == 0
    wait(lambda: reference(run, "queued"), 240, every_s=1)
    take(run, "queued")
    ran_own_code(other, "Queued", run)


def reference(run: Run, experiment: str) -> str:
    """Where git has an experiment; nothing if it has not ended well."""
    found = run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return next((name for name in found if name.endswith(f"/{experiment}")), "")


def take(run: Run, experiment: str) -> None:
    """Code, dvc.lock and data of an experiment into the workspace. `dvc exp apply` wants the outs of all stages."""
    assert run("git", "checkout", "--quiet", reference(run, experiment), "--", ".").returncode == 0
    assert run("dvc", "checkout", "--force", "data/prepared").returncode == 0


def site(folder: Path) -> str:
    return environment(folder)["DVC_SITE_CACHE_DIR"]


def test_a_flow_runs_the_code_of_the_folder(other: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    say(other, "Flowing")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", site(other))
    assert run_stage("prepare", other, ignore).outcome == "ran"
    ran_own_code(other, "Flowing", run)


def ignore(line: str) -> None:
    pass
