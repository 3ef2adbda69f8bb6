"""The table of `make test-gpu`, its checks run on the CPU, which every machine has."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import Machine, resume

ROOT = Path(__file__).parents[2]


def table(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "check", [pytest.param("again", marks=pytest.mark.slow), pytest.param("zero2", marks=pytest.mark.exhaustive)]
)
def test_checks_that_a_cpu_can_run_pass_and_others_say_why_not(check: str) -> None:
    code, told = table("--device", "cpu", "--steps", "6", "--only", check, "qlora")
    outcomes = {line.split("|")[0].strip(): line.split("|")[1].strip() for line in told.splitlines()[1:] if "|" in line}
    assert outcomes == {"float32": "passed", check: "passed", "qlora": "skipped"}, told
    assert code == 0


def test_a_run_that_fails_is_no_pass(tmp_path: Path) -> None:
    """A check fails where its run does: here without data."""
    machine = Machine("cpu", 6, tmp_path)
    (tmp_path / "float32/data").mkdir(parents=True)
    (tmp_path / "float32/models").mkdir()
    with pytest.raises(AssertionError, match="before it could be killed"):
        resume(machine)
