"""One stage of dvc.yaml as one child process: its lines, its outcome, and no process left when it is over.

Reads   dvc.yaml; what `dvc repro --single-item STAGE` prints
Writes  nothing of its own: the stage writes its outputs, DVC writes dvc.lock
Run     run_stage("sft", Path.cwd(), print)

DVC as a child, not as a library: in this process its stages would print past `on_line` and outlive an interrupt.
"""

import math
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from flows.lock import WORKSPACE_LOCK, held
from posttrain.errors import InputError, PosttrainError
from posttrain.processes.process_tree import processes

Outcome = Literal["ran", "unchanged", "restored"]

# How DVC's lines begin. Its exit code is 0 for all three, and 255 whatever the stage's command exited with.
DVC_SAYS: dict[str, Outcome] = {
    "Running stage '{}':": "ran",
    "Stage '{}' didn't change, skipping": "unchanged",
    "Stage '{}' is cached - skipping run": "restored",
}
COMMAND_FAILED = re.compile(r"failed to run: .*, exited with (-?\d+)$")

# A carriage return at the very end may be half of a Windows line end: it waits for the next byte.
LINE_END = re.compile(rb"(\r\n|\n|\r(?=[\s\S]))")
REDRAW_EVERY_S = 15.0
TAIL_LINES = 15

COOKIE = "POSTTRAIN_STAGE_RUN"
BIN = "POSTTRAIN_BIN"
PACKAGE = "trl"  # of the packages that a stage needs, the one that no environment has by chance
POLL_S = 0.1
GRACE_S = 4.0  # from SIGTERM to SIGKILL: a launcher stops its workers, a short step ends and is saved
CLEAN_UP_S = 5.0  # for dvc to clear its rwlock when its command has been killed


@dataclass(frozen=True)
class StageRun:
    """What DVC did about a stage: ran it, found it unchanged, or restored its outputs from an equal earlier run."""

    stage: str
    outcome: Outcome
    seconds: float


class StageFailed(PosttrainError):
    """DVC did not bring the stage up to date.

    `code` is what the stage's own command exited with, None if the command is not to blame; `tail` is the last lines.
    """

    def __init__(self, stage: str, code: int | None, tail: list[str]) -> None:
        super().__init__(stage, code, tail)  # the arguments as they came: Prefect may pickle the exception
        self.stage, self.code, self.tail = stage, code, tail

    def __str__(self) -> str:
        cause = "dvc could not run it" if self.code is None else f"its command exited with {self.code}"
        return "\n  ".join([f"stage {self.stage} failed: {cause}; the output ends:", *self.tail])


def run_stage(stage: str, root: Path, on_line: Callable[[str], None], options: Sequence[str] = ()) -> StageRun:
    """Bring one stage up to date, handing each line of output to `on_line` as it comes.

    `options` are further ones of `dvc repro`, such as `--force`. Whatever interrupts it (Ctrl-C, Prefect's
    cancellation, an error in `on_line`, SIGKILL of this process), no process of the stage survives. While another run
    is at a stage of this workspace, it waits.

    Raises: StageFailed
    """
    with held(root / WORKSPACE_LOCK, on_line):
        end_leftovers(root, on_line)
        return brought_up_to_date(stage, root, on_line, options)


def brought_up_to_date(stage: str, root: Path, on_line: Callable[[str], None], options: Sequence[str]) -> StageRun:
    began = time.monotonic()
    said: list[Outcome] = []
    code: int | None = None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with dvc_repro(stage, root, options) as process:
        for line in lines(output(process)):
            said += [outcome for start, outcome in DVC_SAYS.items() if line.startswith(start.format(stage))]
            if failure := COMMAND_FAILED.search(line):
                code = int(failure[1])
            tail.append(line)
            on_line(line)
        if process.wait() != 0:
            raise StageFailed(stage, code, list(tail))
    return StageRun(stage, said[0] if said else "ran", time.monotonic() - began)


@contextmanager
def dvc_repro(stage: str, root: Path, options: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """`dvc repro` of one stage in a session of its own, over with all its descendants when the context is."""
    cookie = mark(root) + uuid.uuid4().hex
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *options, stage]
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment(cookie),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            with watchdog(process, cookie):
                yield process
        finally:
            stop(process, cookie)


@contextmanager
def watchdog(process: subprocess.Popen[bytes], cookie: str) -> Iterator[None]:
    """What ends the run's processes if this one is killed."""
    with start_watchdog(cookie, process.pid) as dog:
        try:
            yield
        finally:
            dog.kill()  # what it would do, `stop` does


def start_watchdog(cookie: str, dvc: int = 0) -> subprocess.Popen[bytes]:
    """A process that ends those with the cookie once this one has ended: it reads a pipe that nobody else holds."""
    unmarked = {name: value for name, value in os.environ.items() if name != COOKIE}  # a point of a sweep has one
    return subprocess.Popen(
        [sys.executable, "-m", "flows.watchdog", cookie, str(dvc)],
        env={**unmarked, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def environment(cookie: str) -> dict[str, str]:
    """Ours, with the `python` of the stages first in PATH, unbuffered, and a mark that every descendant inherits.

    Raises: InputError if POSTTRAIN_BIN is no environment that stages can run in
    """
    path = os.pathsep.join([str(commands()), os.environ.get("PATH", os.defpath)])
    # SPT_NOENV: setproctitle, which vLLM's and Ray's workers use, else overwrites the environment that the mark is in.
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "SPT_NOENV": "1", COOKIE: cookie}


def commands() -> Path:
    """The folder of the environment that stages run in: POSTTRAIN_BIN, else that of this Python."""
    given = os.environ.get(BIN)
    if not given:
        return Path(sys.executable).parent
    folder = Path(given).absolute()
    if not has_packages(folder / "python"):
        raise InputError(
            BIN,
            got=given,
            wanted=f"the folder of an environment's commands: a `python` that has {PACKAGE}",
            do="such as .venv-vllm/bin, which `make vllm` makes; or unset it",
        )
    return folder


def has_packages(python: Path) -> bool:
    """Whether a Python has what stages import; the code is that of the folder in which it runs."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({PACKAGE!r}) is None)"
    return (
        os.access(python, os.X_OK) and subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
    )


def mark(root: Path) -> str:
    """How the cookies of all runs in a workspace begin."""
    return f"{root.resolve()}:"


def output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the process writes, until it has ended. A worker that it left behind may hold the pipe open for ever."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while True:
        ended = process.poll() is not None
        if poll.poll(0 if ended else POLL_S * 1000):
            if not (chunk := os.read(pipe, 65536)):
                return
            yield chunk
        elif ended:
            return


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines that are not blank; of a progress bar that redraws itself, one each REDRAW_EVERY_S and its last state."""
    rest, redrawn = b"", -math.inf
    for chunk in chunks:
        *ended, rest = LINE_END.split(rest + chunk)
        for text, end in zip(ended[::2], ended[1::2], strict=True):
            if not text.strip():
                continue
            if end == b"\r":
                if time.monotonic() - redrawn < REDRAW_EVERY_S:
                    continue
                redrawn = time.monotonic()
            yield text.decode("utf-8", "replace").rstrip()
    if rest.strip():
        yield rest.decode("utf-8", "replace").rstrip()


def stop(process: subprocess.Popen[bytes], cookie: str) -> None:
    """End every process of the run; a second interrupt cuts the grace short.

    dvc is not sent SIGTERM, which would kill it with its rwlock held: when its command has ended, it clears the lock
    and exits. It ignores SIGINT while a command runs, and at any other time SIGINT makes it do the same.
    """
    try:
        process.send_signal(signal.SIGINT)
        signal_all(partial(others, process, cookie), signal.SIGTERM, GRACE_S, process)
        signal_all(partial(others, process, cookie), signal.SIGKILL, CLEAN_UP_S, process)
    finally:
        process.kill()
        signal_all(partial(others, process, cookie), signal.SIGKILL, CLEAN_UP_S, process)


def end_leftovers(root: Path, on_line: Callable[[str], None]) -> None:
    """What a killed run left in a workspace whose lock is ours: its watchdog ends it, and this what that left."""
    left = partial(marked, mark(root))
    if found := left():
        on_line(f"ending {len(found)} processes that a killed run left behind")
        deadline = time.monotonic() + GRACE_S + POLL_S
        while left() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        signal_all(left, signal.SIGKILL, CLEAN_UP_S)


def signal_all(
    find: Callable[[], set[int]],
    number: signal.Signals,
    patience_s: float,
    dvc: subprocess.Popen[bytes] | None = None,
) -> None:
    """Send the signal once to each process found, and return when they and dvc have ended or patience has."""
    told: set[int] = set()
    deadline = time.monotonic() + patience_s
    while (found := find()) or (dvc and dvc.poll() is None):
        for pid in found - told:
            send(pid, number)
        told |= found
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_S)


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def others(process: subprocess.Popen[bytes], cookie: str) -> set[int]:
    """The living processes of the run except dvc itself."""
    return living(process.pid, cookie) - {process.pid}


def living(dvc: int, cookie: str) -> set[int]:
    """The processes of a run; without /proc those of dvc's group, and none if there is no dvc."""
    if Path("/proc/self/environ").exists():
        return marked(cookie)
    return group(dvc) if dvc else set()


def marked(cookie: str) -> set[int]:
    """Every process whose inherited cookie begins with this one: a worker in a session of its own still has it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if f"{COOKIE}={cookie}".encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def group(leader: int) -> set[int]:
    """The process group, for systems without /proc. A worker in a session of its own is not in it."""
    return {pid for pid, _, group_id, state in processes() if group_id == leader and state != "Z"}
