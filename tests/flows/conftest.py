"""A real DVC project in a temporary folder, with stages that take no time."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=root, check=True)
    return root


@pytest.fixture
def dvc_project(empty_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function from the stages of a dvc.yaml to the root of a project that has them and a source file in.txt."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))  # else each test leaves a folder in /var/tmp

    def make(stages: dict[str, Any]) -> Path:
        root = tmp_path / "project"
        shutil.copytree(empty_project, root)
        (root / "in.txt").write_text("1\n")
        (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))  # JSON is YAML
        return root

    return make


@pytest.fixture
def worker() -> str:
    """A stage that starts a worker in a session of its own and waits for it, as torchrun does, unless `calm` exists.

    The worker prints `worker PID` when it is up. With the argument `stubborn` it ignores SIGTERM.
    """
    return """
import pathlib, subprocess, sys, time

WORKER = '''
import os, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("worker", os.getpid(), flush=True)
time.sleep(600)
'''
if not pathlib.Path("calm").exists():
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *sys.argv[1:]], start_new_session=True)
    if "deserted" in sys.argv:
        time.sleep(0.5)
    else:
        worker.wait()
pathlib.Path("out.txt").write_text("done")
"""


@pytest.fixture
def running() -> Callable[[Path], list[str]]:
    """A function from a project to the commands that run in it, found by their working directory and nothing else."""

    def find(root: Path) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink() == root:
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended, or belongs to somebody else
                continue
        return found

    return find


@pytest.fixture
def modules_after() -> Callable[[str], set[str]]:
    """A function from a module to all that a fresh Python has loaded once it has imported it."""

    def find(module: str) -> set[str]:
        code = f"import sys, {module}; print(*sys.modules)"
        return set(
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        )

    return find
