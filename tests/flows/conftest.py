"""A real DVC project in a temporary folder, with stages that take no time, and a real Prefect server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import processes

REPOSITORY = Path(__file__).parents[2]
Make = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """Prefect's temporary server, for all tests of the session that use it."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


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


# Trains nothing: pass@1 is grpo.beta, which may not be 0.25. Where grpo.max_steps is 77, grpo stops once and goes on
# from what it left. What ran is written down in the file that RAN names.
STAGE = """
import json, os, pathlib, sys
from ruamel.yaml import YAML

word = sys.argv[1]
params = YAML(typ="safe").load(pathlib.Path("params.yaml").read_text())
with open(os.environ["RAN"], "a") as file:
    print(word, params["seed"], params["grpo"]["beta"], file=file)
if word == "prepare":
    found = sorted(pathlib.Path("data/source").rglob("*.txt"))
    pathlib.Path("one.txt").write_text("".join(path.read_text() for path in found))
if word == "grpo":
    print("grpo 1/2 | reward/accuracy 0.5")
    checkpoint = pathlib.Path(".posttrain/checkpoint")
    gone_on = checkpoint.exists()
    checkpoint.touch()
    if params["grpo"]["beta"] == 0.25 or (params["grpo"]["max_steps"] == 77 and not gone_on):
        sys.exit("cannot be trained")
    pathlib.Path("two.txt").write_text(f"gone on {gone_on}")
    print("grpo 2/2 | reward/accuracy 1.0")
if word == "evaluate":
    folder = pathlib.Path("results/evaluate")
    folder.mkdir(parents=True, exist_ok=True)
    after = params["grpo"]["beta"]
    metrics = {
        "verdict": "improved",
        "sft": {"pass@1": 0.0},
        "grpo": {"pass@1": after, "pass@1_low": after / 2, "pass@1_high": after},
        "gain": {"mean": after, "low": after / 2, "high": after},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    pathlib.Path("results/evaluate.json").write_text(json.dumps({"grpo": after}))
"""
TRAINING = {
    "prepare": {"deps": ["data/source"], "params": ["seed"], "outs": ["one.txt"]},
    "grpo": {"deps": ["one.txt"], "params": ["seed", "grpo"], "outs": ["two.txt"]},
    "evaluate": {
        "deps": ["two.txt"],
        "params": ["grpo"],
        "outs": ["results/evaluate/metrics.json"],
        "metrics": [{"results/evaluate.json": {"cache": False}}],
    },
}


@pytest.fixture
def training(dvc_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project with the real params.yaml whose stages are STAGE, and data that git ignores; the working
    directory."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    root = dvc_project(
        {word: {**stage, "cmd": f"{sys.executable} stage.py {word}"} for word, stage in TRAINING.items()}
    )
    shutil.copy(REPOSITORY / "params.yaml", root)
    (root / "stage.py").write_text(STAGE)
    (root / "recipes").mkdir()
    shutil.copy(REPOSITORY / "recipes/tiny.yaml", root / "recipes")
    (root / "recipes/third.yaml").write_text("seed: 3\n")
    (root / ".gitignore").write_text(".posttrain\n/data/source/*\n!/data/source/README.md\n")
    (root / ".dvcignore").write_text(".posttrain\n")
    (root / "data/source/mine").mkdir(parents=True)
    (root / "data/source/README.md").write_text("yours")
    (root / "data/source/mine/rows.txt").write_text("mine")
    for git in (["git", "add", "-A"], ["git", "commit", "--quiet", "-m", "project"]):
        subprocess.run(git, cwd=root, check=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[], list[str]]:
    """A function that says which stages of `training` ran since it was last asked, with their seed and beta."""

    def read() -> list[str]:
        path = tmp_path / "ran"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return read


@pytest.fixture
def experiments() -> Callable[[Path], dict[str, Any]]:
    """A function from a project to what `dvc exp show` lists: name to data."""

    def read(root: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
        shown = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)
        return {
            revision["name"]: revision["data"]
            for baseline in shown
            for experiment in baseline["experiments"] or []
            for revision in experiment["revs"]
        }

    return read


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
    """A function from a project to the commands that run in it, found by their working directory and nothing else, but
    for this process."""

    def find(root: Path) -> list[str]:
        return [line for pid, line in processes(root).items() if pid != os.getpid()]

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
