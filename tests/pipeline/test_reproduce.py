"""A result moves to another clone over a remote and is whole there; the same commit gives the same bytes again."""

import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.params.file import read_yaml
from tests.pipeline.conftest import POSTTRAIN, Run, outs, runner

Done = "subprocess.CompletedProcess[str]"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
S3_NEEDS = [name for name in ("dvc_s3", "moto", "flask") if importlib.util.find_spec(name) is None]


@pytest.fixture
def committed(repro: Done, run: Run) -> None:
    """The results of the clone are in a commit."""
    run("git", "add", "-A")
    run("git", "commit", "-qm", "results")
    assert run("git", "status", "--porcelain").stdout == ""


def git_clone(source: Path, target: Path, **more: str) -> Run:
    subprocess.run(["git", "clone", "-q", str(source), str(target)], check=True)
    return runner(target, **more)


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an S3 server on loopback that has a bucket `store`."""
    if S3_NEEDS:
        pytest.skip(f"needs dvc-s3 and moto[server], of the dev extra; not installed: {', '.join(S3_NEEDS)}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        make_bucket(f"http://127.0.0.1:{port}", time.monotonic() + 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def make_bucket(address: str, deadline: float) -> None:
    import urllib.error
    import urllib.request

    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/store", method="PUT"), timeout=5).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.2)
        else:
            return


def moves(clone: Path, target: Path, remote: str, address: str | None, **more: str) -> None:
    """Push from one clone, pull in another: whole there, with nothing left to run."""
    here, there = runner(clone, **more), git_clone(clone, target, **more)
    for run in (here, there):
        assert run("dvc", "remote", "add", "--local", "-f", "-d", "store", remote).returncode == 0
        if address is not None:
            assert run("dvc", "remote", "modify", "--local", "store", "endpointurl", address).returncode == 0
    missing = there(*POSTTRAIN, "verify")
    assert missing.returncode == 2
    assert "missing models/grpo/manifest.json" in missing.stdout
    for run, verb in ((here, "push"), (there, "pull")):
        done = run("dvc", verb)
        assert done.returncode == 0, done.stdout + done.stderr
    assert outs(target) == outs(clone)
    verified = there(*POSTTRAIN, "verify")
    assert verified.returncode == 0, verified.stdout
    assert "0 changed, 0 missing" in verified.stdout
    assert there(*POSTTRAIN, "verify", "results/evaluate").returncode == 0
    again = there("dvc", "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage" not in again.stdout
    tree = there(*POSTTRAIN, "lineage").stdout
    assert "└─ results/evaluate | manifest " in tree
    assert "made from another" not in tree


def test_a_result_moves_over_a_folder(committed: None, clone: Path, tmp_path: Path) -> None:
    moves(clone, tmp_path / "other", str(tmp_path / "store"), None)


def test_a_result_moves_over_s3(committed: None, clone: Path, tmp_path: Path, bucket: str) -> None:
    moves(clone, tmp_path / "other", "s3://store/posttrain", bucket, **KEYS)


def test_the_same_commit_gives_the_same_bytes_in_another_folder(
    committed: None, clone: Path, run: Run, tmp_path: Path
) -> None:
    """Every out; neither the folder, nor an unrelated commit, nor an unrelated change that is not committed counts."""
    there = git_clone(clone, tmp_path / "a folder with another name")
    root = tmp_path / "a folder with another name"
    (root / "CHANGELOG.md").write_text("Another commit.\n")
    assert there("git", "commit", "-qam", "unrelated").returncode == 0
    (root / "README.md").write_text("Not committed.\n")
    done = there("dvc", "repro", "--force", "--no-run-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Running stage") == 5
    mine, theirs = outs(root), outs(clone)
    assert {"results/report.html", "models/grpo/README.md", "results/evaluate/manifest.json"} <= set(theirs)
    assert [name for name in theirs if mine.get(name) != theirs[name]] == []
    assert set(mine) == set(theirs)
    assert (root / "dvc.lock").read_text() == (clone / "dvc.lock").read_text()
    log = read_yaml(root / ".posttrain/runs/grpo.json")
    assert log["git"] == {"commit": there("git", "rev-parse", "HEAD").stdout.strip(), "dirty": True}
