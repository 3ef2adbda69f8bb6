"""The embedded pipeline, cut down to seconds, on two agents with a cache each; `make test-flows`, a few minutes.

Not among the tests that pytest finds by itself. Run: pytest tests/flows/whole_pipeline.py
"""

import json
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import REPOSITORY, Site, shortened_project, site, trivial_project
from tests.processes import wait

WORDS = ["prepare", "sft", "grpo", "evaluate", "report"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shortened_project(tmp_path_factory.mktemp("project") / "home")


@pytest.fixture(scope="module")
def lock(home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """dvc.lock after a local `dvc repro`: the hash of everything that a run makes."""
    here = Site(tmp_path_factory.mktemp("local"))
    here.run(here.folder, "git", "clone", "--quiet", str(home), "clone")
    here.run(here.folder / "clone", "dvc", "repro", timeout=400)
    return (here.folder / "clone/dvc.lock").read_text()


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An empty bucket of a server that speaks S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Site(tmp_path)
    here.start("s3", tmp_path, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    url = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: "Running on" in here.log("s3"), 60)
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=30).close()
        yield {"url": "s3://bucket/posttrain", "endpointurl": url}
    finally:
        here.stop("s3")


def files(folder: Path) -> dict[str, int]:
    """The files under a folder, with the time of their last change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def missing(status: dict[str, list[dict[str, dict[str, str]]]]) -> set[str]:
    """What `dvc status --json` holds against the outs, and every other change by its kind."""
    changes = [change for items in status.values() for item in items for change in item.items()]
    return {how for kind, paths in changes for how in (paths.values() if kind == "changed outs" else [kind])}


def test_two_agents_make_the_bytes_that_one_machine_makes(home: Path, lock: str, tmp_path: Path) -> None:
    with site(tmp_path, home, {"url": str(tmp_path / "remote")}) as made:
        cpu, gpu = made.clone("cpu"), made.clone("gpu")
        run = made.submit()
        assert made.over(run, 400)["state"]["name"] == "Completed", made.said(run)
        assert made.states(run) == dict.fromkeys(WORDS, "Completed")
        assert (cpu / "dvc.lock").read_text() == lock
        # What the GPU agent's stages wrote came to this one only where a stage of its own read it.
        status = json.loads(made.run(cpu, "dvc", "status", "--json"))
        assert missing(status) == {"not in cache"}
        name = made.flow_run(run)["name"]
        assert name in made.run(cpu, "dvc", "exp", "show", "--csv")

        # A second run moves no byte of data or of a model, though this agent has lost all it had.
        for lost in ("models/sft", "models/grpo", "data/prepared", ".dvc/cache"):
            shutil.rmtree(gpu / lost)
        before = files(tmp_path / "remote")
        second = made.submit()
        assert made.over(second, 300)["state"]["message"] == ", ".join(f"{word} unchanged" for word in WORDS)
        assert made.states(second) == dict.fromkeys(WORDS, "Skipped")
        assert files(tmp_path / "remote") == before
        assert not files(gpu / ".dvc/cache/files")
        assert not (gpu / "models/sft").exists()

        # Where the chain ran, a pull is all that is missing.
        made.run(cpu, "dvc", "pull")
        assert made.run(cpu, "dvc", "status") == "Data and pipelines are up to date.\n"
        assert made.run(cpu, "posttrain", "verify").count("models/grpo")


def test_through_s3(s3: dict[str, str], tmp_path: Path) -> None:
    """With stages that take no time: what DVC does is the same, and where it does it is not."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with site(tmp_path, trivial_project(tmp_path / "project"), s3, REPOSITORY, **keys) as made:
        run = made.submit()
        assert made.over(run)["state"]["name"] == "Completed", made.said(run)
        assert (made.clone("cpu") / "results/report.html").read_text().count("seed: 1") == 2
