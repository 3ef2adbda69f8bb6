"""A program that ends with everything it started."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.processes import process_tree as module
from posttrain.processes.process_tree import process_tree
from tests.held_locks import is_released
from tests.processes import wait

# Starts another one, perhaps in a session of its own; each holds a lock for as long as it lives. Python's own way out
# would drop the lock a little before its end, while a signal still changes the exit status.
PROGRAM = """
import fcntl, os, subprocess, sys, time
name, session, what = sys.argv[1:]
held = open(name, "w")
fcntl.flock(held, fcntl.LOCK_EX)
if name == "first":
    subprocess.Popen([sys.executable, "-S", __file__, "second", session, "sleep"], start_new_session=session == "own")
    while not os.path.exists("ready"):
        time.sleep(0.01)
    print("begun", flush=True)
else:
    open("ready", "w").close()
if what == "sleep":
    time.sleep(60)
os._exit(7)
"""
ELSEWHERE = pytest.param(False, marks=pytest.mark.skipif(not shutil.which("ps"), reason="what is not Linux has ps"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def begun() -> None:
    wait(lambda: Path("ready").exists() and Path("log").read_text() == "begun\n", 20)


def nothing_is_left() -> bool:
    return is_released("first") and is_released("second")


@pytest.mark.parametrize("session", ["same", "own"])
def test_what_a_program_started_ends_with_it(here: Path, session: str) -> None:
    with process_tree(
        [sys.executable, "-S", "program.py", "first", session, "end"], os.environ, Path("log")
    ) as process:
        assert process.wait(20) == 7
    assert Path("log").read_text() == "begun\n"
    assert nothing_is_left()


@pytest.mark.parametrize("session", ["same", "own"])
def test_a_program_ends_with_the_block(here: Path, session: str) -> None:
    command = [sys.executable, "-S", "program.py", "first", session, "sleep"]
    with process_tree(command, os.environ, Path("log")) as process:
        begun()
    assert process.returncode == 128 + signal.SIGTERM
    assert nothing_is_left()


def test_a_program_that_cannot_be_run_says_so(here: Path) -> None:
    with process_tree(["./nothing"], os.environ, Path("logs/log")) as process:
        assert process.wait(20) == 127
    assert "./nothing: No such file" in Path("logs/log").read_text()


@pytest.mark.parametrize("linux", [True, ELSEWHERE])
@pytest.mark.parametrize("what", ["sleep", "end"])
def test_the_keeper_knows_its_processes_on_any_system(here: Path, linux: bool, what: str) -> None:
    """One that has lost its parent too: the keeper's group is where it is found on a system other than Linux."""
    if linux and sys.platform != "linux":
        pytest.skip("there is no /proc")
    keeper = (
        "import sys, posttrain.processes.process_tree as module\n"
        f"module.LINUX = {linux}\nsys.exit(module.keep(1.0, sys.argv[1:]))\n"
    )
    with Path("log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", keeper, sys.executable, "-S", "program.py", "first", "same", what],
            env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=log,
            start_new_session=True,
        )
    assert process.stdin is not None
    begun()
    if what == "end":  # by itself: a keeper that is told to stop before ends it by SIGTERM
        wait(lambda: is_released("first"), 20)
    process.stdin.close()
    assert process.wait(20) == {"sleep": 128 + signal.SIGTERM, "end": 7}[what]
    assert nothing_is_left()
