"""A clone of the working tree in which the pipeline has run once, on a recipe of seconds."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.params.file import read_yaml
from tests.clone import copy_project
from tests.forks import Run as Fork
from tests.forks import workspace

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
POSTTRAIN = ("python", "-m", "posttrain")
"""The command with the code of a clone: the environment was made for the repository."""


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows or would add, committed in a repository of their own."""
    target = tmp_path_factory.mktemp("clone")
    copy_project(target)
    return target


def outs(root: Path) -> dict[str, str]:
    """The sha256 of every file of every out, metric and plot of dvc.yaml."""
    found = {}
    for stage in read_yaml(root / "dvc.yaml")["stages"].values():
        for item in (item for kind in ("outs", "metrics", "plots") for item in stage.get(kind, [])):
            out = root / (next(iter(item)) if isinstance(item, dict) else item)
            files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
            assert files, out
            found |= {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a command in a clone runs with."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_SITE_CACHE_DIR": str(folder.with_name(f"{folder.name}-site-cache")),
        **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        **more,
    }


def runner(folder: Path, **more: str) -> Run:
    """Run a command in a clone, with more environment: output captured, exit code left to the test."""

    def run(*command: str, timeout: int = 400) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True, timeout=timeout
        )

    return run


def initialised(folder: Path) -> Run:
    """A repository of its own for a copy of the project, with the recipe of seconds."""
    run = runner(folder)
    for command in (["git", "init", "-q"], [*POSTTRAIN, "recipe", "seconds"], ["git", "add", "-A"]):
        assert run(*command).returncode == 0
    assert run("git", "commit", "-qm", "clone").returncode == 0
    return run


@pytest.fixture(scope="session")
def run(clone: Path) -> Run:
    """Run a command in the clone."""
    return initialised(clone)


@pytest.fixture(scope="session")
def repro(run: Run) -> "subprocess.CompletedProcess[str]":
    """The outcome of `dvc repro` in the clone."""
    return run("dvc", "repro")


@pytest.fixture(scope="module")
def never_killed(forks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which sft and grpo ran through, without writing a single checkpoint."""
    root = workspace(tmp_path_factory.mktemp("never_killed"), {"launch": {"checkpoint_every_s": 1e6}})
    for stage in ("prepare", "sft", "grpo"):
        run = Fork(forks, root, stage)
        assert run.wait() == 0, run.output()
    return root
