"""One stage through the real DVC: outcomes, failures, the output, and what an interrupt leaves behind (nothing)."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import stage_run
from flows.stage_run import StageFailed, group, lines, run_stage
from posttrain.errors import InputError
from tests.processes import wait

linux = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")

COPY = {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}


def ignore(line: str) -> None:
    pass


def stage_with(script: str, *arguments: str) -> dict[str, Any]:
    return {"cmd": " ".join([sys.executable, "stage.py", *arguments]), "deps": ["in.txt"], "outs": ["out.txt"]}


def test_stages_can_run_in_an_environment_of_their_own(dvc_project, tmp_path, monkeypatch):
    """Such as that of vLLM, which has no Prefect; DVC is the one of this Python."""
    stage = {"cmd": "python -m posttrain sft > out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}
    root = dvc_project({"sft": stage})
    own = tmp_path / "own/bin"
    own.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTTRAIN_BIN", "own/bin")
    with pytest.raises(InputError, match="make vllm"):
        run_stage("sft", root, ignore)
    python = own / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(InputError, match="a `python` that has trl"):
        run_stage("sft", root, ignore)
    python.write_text(f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\necho our own $@\n')
    run_stage("sft", root, ignore)
    assert (root / "out.txt").read_text() == "our own -m posttrain sft\n"


def test_outcomes_are_those_of_dvc(dvc_project):
    root = dvc_project({"copy": COPY})
    heard: list[str] = []

    ran = run_stage("copy", root, heard.append)
    assert (ran.stage, ran.outcome) == ("copy", "ran")
    assert 0 < ran.seconds < 60
    assert "> cp in.txt out.txt" in heard
    assert run_stage("copy", root, ignore).outcome == "unchanged"

    (root / "in.txt").write_text("2\n")
    assert run_stage("copy", root, ignore).outcome == "ran"
    (root / "in.txt").write_text("1\n")
    assert run_stage("copy", root, ignore).outcome == "restored"
    assert (root / "out.txt").read_text() == "1\n"


def test_commands_of_this_python_are_found_whatever_the_path(dvc_project, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    heard: list[str] = []
    run_stage("where", dvc_project({"where": {"cmd": "command -v dvc"}}), heard.append)
    assert str(Path(sys.executable).parent / "dvc") in heard


def test_a_failure_carries_the_code_of_the_command_and_its_last_lines(dvc_project):
    root = dvc_project({"fails": {"cmd": "seq 30 && echo 'gold 7 is empty' >&2 && exit 2"}})
    with pytest.raises(StageFailed, match="stage fails failed: its command exited with 2") as caught:
        run_stage("fails", root, ignore)
    assert caught.value.code == 2
    assert "gold 7 is empty" in caught.value.tail
    assert "30" in caught.value.tail
    assert "1" not in caught.value.tail
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_failure_of_dvc_itself_has_no_code(dvc_project):
    root = dvc_project({"copy": {**COPY, "deps": ["missing.txt"]}})
    with pytest.raises(StageFailed, match="dvc could not run it") as caught:
        run_stage("copy", root, ignore)
    assert caught.value.code is None
    assert "missing.txt" in str(caught.value)


def test_a_progress_bar_becomes_a_few_lines(dvc_project):
    root = dvc_project({"bar": stage_with("stage.py")})
    (root / "stage.py").write_text(
        "import pathlib, sys\n"
        "for step in range(2001):\n"
        "    sys.stderr.write(f'\\rstep {step}/2000')\n"
        "print('\\ndone', file=sys.stderr)\n"
        "pathlib.Path('out.txt').touch()\n"
    )
    heard: list[str] = []
    run_stage("bar", root, heard.append)
    bar = [line for line in heard if line.startswith("step")]
    assert bar == ["step 0/2000", "step 2000/2000"]
    assert "done" in heard


def test_lines_end_with_any_line_end_and_chunks_anywhere():
    text = b"a\r\nb\n\n  \nc\xff\xc3\xa9\rd"
    expected = ["a", "b", "c\N{REPLACEMENT CHARACTER}é", "d"]
    assert list(lines([text])) == expected
    assert list(lines(text[i : i + 1] for i in range(len(text)))) == expected


def test_redraws_come_through_again_after_a_while(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(stage_run, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def redraws() -> Iterator[bytes]:
        yield b"1\r2\r3\r"
        clock.now += stage_run.REDRAW_EVERY_S + 1
        yield b"4\r5\r6"

    # 3 waits for the byte behind its carriage return, which comes late enough for it to be shown.
    assert list(lines(redraws())) == ["1", "3", "6"]


def interrupt_when_up(line: str) -> None:
    if line.startswith("worker"):
        raise KeyboardInterrupt


def rwlock(root: Path) -> Any:
    path = root / ".dvc/tmp/rwlock"
    return {kind: held for kind, held in json.loads(path.read_text()).items() if held} if path.exists() else {}


@linux
@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_an_interrupt_leaves_no_process_and_no_lock(dvc_project, worker, running, monkeypatch, manner):
    monkeypatch.setattr(stage_run, "GRACE_S", 1.0)
    root = dvc_project({"train": stage_with("stage.py", manner)})
    (root / "stage.py").write_text(worker)
    with pytest.raises(KeyboardInterrupt):
        run_stage("train", root, interrupt_when_up)
    assert running(root) == []
    assert rwlock(root) == {}

    (root / "calm").touch()
    assert run_stage("train", root, ignore).outcome == "ran"


@linux
def test_a_second_interrupt_does_not_wait_for_the_grace(dvc_project, worker, running, monkeypatch):
    root = dvc_project({"train": stage_with("stage.py", "stubborn")})
    (root / "stage.py").write_text(worker)
    monkeypatch.setattr(stage_run, "GRACE_S", 60.0)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupt_twice(line: str) -> None:
        if line.startswith("worker"):
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            run_stage("train", root, interrupt_twice)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert running(root) == []
    # dvc was killed with its lock held, which it forgives: the holder is dead.
    (root / "calm").touch()
    assert run_stage("train", root, ignore).outcome == "ran"


@linux
def test_a_worker_that_its_stage_deserted_is_ended(dvc_project, worker, running):
    root = dvc_project({"train": stage_with("stage.py", "deserted")})
    (root / "stage.py").write_text(worker)
    heard: list[str] = []
    assert run_stage("train", root, heard.append).seconds < 60  # it would hold the pipe for ten minutes
    assert any(line.startswith("worker") for line in heard)
    assert running(root) == []


RUN = "import sys; from pathlib import Path; from flows.stage_run import run_stage; "
RUN += "print(run_stage('train', Path.cwd(), lambda line: print(line, flush=True)).outcome)"


def heard_until(process: "subprocess.Popen[str]", word: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if word in line)


@linux
def test_a_second_run_waits_for_the_first_and_ends_what_it_left_when_killed(dvc_project, worker, running):
    root = dvc_project({"train": stage_with("stage.py")})
    (root / "stage.py").write_text(worker)

    def start() -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen(
            [sys.executable, "-c", RUN], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
        )

    with start() as first:
        left = int(heard_until(first, "worker ").split()[1])
        with start() as second:
            assert heard_until(second, "waiting for").startswith(f"waiting for process {first.pid}, which holds")
            (root / "calm").touch()
            first.kill()
            assert "a killed run left behind" in heard_until(second, "ending ")
            assert heard_until(second, "ran") == "ran\n"
    assert not alive(left)
    assert running(root) == []


def alive(pid: int) -> bool:
    """One that has ended stays in the table until whoever inherited it asks."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not shutil.which("ps"), reason="for systems without /proc, which have ps")
def test_a_group_is_its_living_members():
    process = subprocess.Popen(["sh", "-c", "sleep 60 & echo up; wait"], start_new_session=True, stdout=-1)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        members = group(process.pid)
        assert process.pid in members
        assert len(members) == 2
        for pid in members:
            stage_run.send(pid, signal.SIGKILL)
    wait(lambda: not group(process.pid), 60)  # the shell's child dies when the system gets to it


def test_imports_no_orchestrator_and_no_dvc(modules_after: Callable[[str], set[str]]):
    assert modules_after("flows.stage_run").isdisjoint({"prefect", "dvc", "torch", "pydantic"})
