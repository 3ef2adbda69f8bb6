"""Watches the workers of one machine, from outside: how each ended, and that none is left.

Reads   what the workers send through a Unix socket (posttrain/worker.py)
Writes  .posttrain/logs/launch/<stage>-rank-N.log for every rank but 0, whose output is ours, and <stage>-launcher.log

accelerate and torchrun turn every exit code into 1, give a rank that hangs 30 seconds, and leave all ranks running when
they are killed themselves.
"""

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import EXIT_BUG, EXIT_RETRY, PosttrainError
from posttrain.launch.accelerate import by_itself, command, environment, write_config
from posttrain.launch.layout import SOCKET, Layout
from posttrain.paths import LAUNCH_LOGS
from posttrain.processes.lock import keep_held
from posttrain.processes.pool import server_address
from posttrain.processes.process_tree import end_of
from posttrain.processes.signals import NotedSignals

CRASHES = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL"}
"""A fault of the program. SIGABRT is not among them: NCCL ends so when another machine is gone."""
GRACE_S = 5.0
"""Seconds that the other workers have to end by themselves when one has failed; they may hang in a collective."""
POLL_S = 0.2


@dataclass
class Worker:
    """A rank as its connection tells of it."""

    rank: int
    pid: int
    connection: socket.socket
    rest: bytes = b""
    code: int | None = None
    """What it says that it exits with; None until then."""


class WorkerError(PosttrainError):
    """A worker failed that could not say so on our own output."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launch:
    """A launcher that runs, and the socket to which its workers will report."""

    layout: Layout
    process: subprocess.Popen[bytes]
    listener: socket.socket
    begun: Path
    """Its log until the workers may start: that of a run which has the lock may not be touched before."""


def supervise(stage: str, launch: Launch) -> None:
    """Run the stage in the processes of the layout, all its signals passed on.

    Raises: SystemExit with the code of the worker that failed first, WorkerError if that one was not rank 0.
    """
    layout = launch.layout
    print(f"{stage} | {layout} | other ranks: {LAUNCH_LOGS}/{stage}-rank-N.log", flush=True)
    log = log_path(stage, f"launcher-{layout.machine_rank}" if layout.machines > 1 else "launcher")
    launch.begun.replace(log)
    run = Supervision(stage, log, launch.listener, launch.process)
    with NotedSignals() as signals:
        try:
            let_start(launch.process)
            run.watch(signals)
        finally:
            run.kill()
    run.raise_failure(layout)


def let_start(launcher: subprocess.Popen[bytes]) -> None:
    """Tell a launcher that waits for it that the workers may start."""
    if launcher.stdin is not None:
        with suppress(BrokenPipeError), launcher.stdin:  # it has died, which is seen without this
            launcher.stdin.write(server_address().encode() + b"\n")


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A socket in a folder of its own: paths of Unix sockets are 107 bytes at most, and a workspace's may be longer."""
    with tempfile.TemporaryDirectory(prefix="posttrain-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/workers"
        listener.bind(path)
        listener.listen()
        yield listener, path


@contextmanager
def launched(stage: str, layout: Layout) -> Iterator[Launch]:
    """The launcher in a session of its own: a Ctrl-C reaches us alone, and we pass it on.

    Our own one (ranks.py) imports what its workers need, and starts them when `supervise` says so; accelerate's starts
    them at once.
    """
    write_config(stage, layout)
    LAUNCH_LOGS.mkdir(parents=True, exist_ok=True)
    begun = log_path(stage, f"launcher-of-{os.getpid()}")
    with (
        listening() as (listener, path),
        begun.open("wb") as log,
        subprocess.Popen(
            command(stage, layout),
            env={**os.environ, **environment(layout), SOCKET: path},
            stdin=subprocess.PIPE if by_itself(layout) else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as launcher,
    ):
        try:
            yield Launch(layout, launcher, listener, begun)
        finally:
            launcher.kill()
            begun.unlink(missing_ok=True)


def log_path(stage: str, name: str) -> Path:
    return LAUNCH_LOGS / f"{stage}-{name}.log"


class Supervision:
    """The workers of one run."""

    def __init__(self, stage: str, log: Path, listener: socket.socket, launcher: subprocess.Popen[bytes]) -> None:
        self.stage, self.log, self.listener, self.launcher = stage, log, listener, launcher
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.alive: list[Worker] = []
        self.ended: list[Worker] = []
        self.first: Worker | None = None
        """The one that failed first: the cause; the others only lost it."""
        self.deadline = float("inf")
        self.cut_short = 0
        """The signal that was not waited for."""

    def watch(self, signals: NotedSignals) -> None:
        """Until every worker and the launcher have ended. Past the deadline the rest is killed.

        Raises: RetryError if another process runs the stage by now, whose lock somebody removed
        """
        passed_on = 0
        while self.alive or self.launcher.poll() is None:
            keep_held()
            for key, _ in self.selector.select(POLL_S):
                self.greet() if key.fileobj is self.listener else self.listen(key.data)
            for number in signals.received[passed_on:]:
                self.stop(number, again=passed_on > 0)
                passed_on += 1
            if self.launcher.poll() is not None and self.alive and self.deadline == float("inf"):
                self.stop(signal.SIGTERM, again=False)  # nobody would notice a rank that is lost
                self.deadline = time.monotonic() + GRACE_S
            if time.monotonic() > self.deadline:
                self.kill()

    def greet(self) -> None:
        """A new worker says who it is, and gets its output: ours for rank 0, a log for the others."""
        connection, _ = self.listener.accept()
        connection.settimeout(GRACE_S)
        with connection.makefile("rb") as file:
            hello = json.loads(file.readline())
        worker = Worker(hello["rank"], hello["pid"], connection)
        if worker.rank == 0:
            socket.send_fds(connection, [b"."], [1, 2])
        else:
            with log_path(self.stage, f"rank-{worker.rank}").open("wb") as log:
                socket.send_fds(connection, [b"."], [log.fileno(), log.fileno()])
        self.alive.append(worker)
        self.selector.register(connection, selectors.EVENT_READ, worker)

    def listen(self, worker: Worker) -> None:
        """Its last word, or the end of its connection, which is the end of the process."""
        try:
            data = worker.connection.recv(4096)
        except OSError:
            data = b""
        worker.rest += data
        if worker.rest.endswith(b"\n"):
            worker.code = int(json.loads(worker.rest)["code"])
        if not data:
            self.selector.unregister(worker.connection)
            worker.connection.close()
            self.alive.remove(worker)
            self.ended.append(worker)
        if worker.code != 0 and (worker.code is not None or not data) and self.first is None:
            self.first = worker
            self.deadline = time.monotonic() + GRACE_S

    def stop(self, number: int, again: bool) -> None:
        """Pass a signal on to the workers, which save after their step; a second one, or none to pass it to, kills."""
        if again or not self.alive:
            self.deadline, self.cut_short = 0.0, number
        for worker in self.alive:
            send(worker.pid, number)

    def kill(self) -> None:
        for worker in self.alive:
            send(worker.pid, signal.SIGKILL)
        if not self.alive or time.monotonic() > self.deadline + GRACE_S:
            self.launcher.kill()

    def raise_failure(self, layout: Layout) -> None:
        """Raises: SystemExit or WorkerError unless every rank said 0."""
        if self.cut_short:
            raise SystemExit(128 + self.cut_short)
        if (worker := self.first) is not None:
            if worker.code is not None and worker.rank == 0:
                raise SystemExit(worker.code)  # it has told the person
            raise WorkerError(*self.cause(worker))
        if len(self.ended) != layout.local_processes:
            told = f"{len(self.ended)} of {layout.local_processes} workers came up; the launcher's last lines:"
            raise WorkerError(f"{told}\n{end_of(self.log)}", EXIT_BUG)

    def cause(self, worker: Worker) -> tuple[str, int]:
        """What to tell a person about a worker that could not do so, and the exit code."""
        path = log_path(self.stage, f"rank-{worker.rank}") if worker.rank else self.log
        if worker.code is not None:
            return f"worker {worker.rank} ended with exit code {worker.code}; {path} ends:\n{end_of(path)}", worker.code
        name = signal_of(worker, end_of(self.log, 200))
        if name in CRASHES:
            return f"worker {worker.rank} crashed ({name}); {path} ends:\n{end_of(path)}", EXIT_BUG
        return (
            f"worker {worker.rank} (process {worker.pid}) was ended by {name or 'a signal'}; the system does that when"
            f" memory runs out | to go on from the last checkpoint: posttrain {self.stage}, or dvc repro"
        ), EXIT_RETRY


def signal_of(worker: Worker, log: str) -> str:
    """What ended a worker that said nothing, as torchrun reports it; empty if it does not."""
    found = re.search(rf"\((SIG\w+)\) received by PID {worker.pid}\b", log)
    return found[1] if found else ""


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
