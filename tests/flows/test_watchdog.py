"""A flow that is killed with SIGKILL cannot end its stage; the watchdog does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.stage_run import GRACE_S, run_stage

REPOSITORY = Path(__file__).parents[2]
FLOW = """
from pathlib import Path
from flows.stage_run import run_stage
run_stage("train", Path.cwd(), lambda line: print(line, flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_what_a_killed_flow_left_is_ended(
    dvc_project: Callable[..., Path], worker: str, running: Callable[[Path], list[str]], manner: str
) -> None:
    root = dvc_project({"train": {"cmd": f"{sys.executable} stage.py {manner}", "outs": ["out.txt"]}})
    (root / "stage.py").write_text(worker)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", FLOW], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as flow:
        assert flow.stdout is not None
        assert any(line.startswith("worker") for line in flow.stdout)
        os.kill(flow.pid, signal.SIGKILL)
        deadline = time.monotonic() + GRACE_S + 10
        while running(root):
            assert time.monotonic() < deadline, running(root)
            time.sleep(0.1)
    (root / "calm").touch()
    assert run_stage("train", root, lambda _: None).outcome == "ran"
