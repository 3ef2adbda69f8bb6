"""`posttrain STAGE` in several processes as a user starts it, and every process that came of it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.processes import processes

ROOT = Path(__file__).parents[2]
MARK = "POSTTRAIN_TEST_RUN"
FORKS = "posttrain.launch.ranks"
LAUNCHERS = ("accelerate.commands.launch", FORKS)


def parent(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


class Launched:
    """A running stage. What it starts inherits a mark, also ranks in sessions of their own."""

    def __init__(self, root: Path, stage: str, strategy: str, processes: int = 2, **launch: object) -> None:
        self.root, self.stage, self.cookie = root, stage, uuid.uuid4().hex
        self.log = root / ".posttrain" / f"{stage}-{self.cookie}.log"
        self.log.parent.mkdir(exist_ok=True)
        keys = {"strategy": strategy, "processes": processes, **launch}
        variables = {f"POSTTRAIN_LAUNCH_{key.upper()}": str(value) for key, value in keys.items()}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", MARK: self.cookie, **variables}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "posttrain", stage],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text()

    def wait(self, timeout_s: float = 240) -> int:
        """The exit code, after which nothing of it runs any more."""
        try:
            code = self.process.wait(timeout_s)
        finally:
            self.sweep()
        return code

    def living(self) -> dict[int, str]:
        """Command line of each process that carries the mark, by its number."""
        return processes(mark=f"{MARK}={self.cookie}")

    def rank(self, number: int) -> int:
        """The process that is a rank: of accelerate by its environment, else the fork that the launcher made so many
        forks later."""
        forks = []
        for pid, command in self.living().items():
            environment = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
            if "posttrain.worker" in command and f"RANK={number}".encode() in environment:
                return pid
            if FORKS in command and FORKS in self.living().get(parent(pid), ""):
                forks.append(pid)
        assert len(forks) > number, f"no rank {number}:\n{self.output()}"
        return sorted(forks)[number]

    def launcher(self) -> int:
        """The one whose parent is no launcher."""
        living = self.living()
        names = {pid: next((name for name in LAUNCHERS if name in command), None) for pid, command in living.items()}
        return next(pid for pid, name in names.items() if name is not None and names.get(parent(pid)) is None)

    def until(self, condition: Callable[[], object], timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def until_saved(self, step: int) -> None:
        """A checkpoint of that step or a later one is there."""
        folder = self.root / ".posttrain/checkpoints" / self.stage
        self.until(lambda: any(int(path.parent.name[5:]) >= step for path in folder.glob("*/step-*/manifest.json")))

    def seconds_to_nothing(self, timeout_s: float = 60) -> float:
        """Until the command and all that came of it have ended."""
        began = time.monotonic()
        while (left := self.living()) and time.monotonic() - began < timeout_s:
            self.process.poll()
            time.sleep(0.05)
        seconds = time.monotonic() - began
        self.sweep()
        assert not left, left
        return seconds

    def sweep(self) -> None:
        for pid in self.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
