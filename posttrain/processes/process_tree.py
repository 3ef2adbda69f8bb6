"""A program that ends with everything it started: when it is told to, and when whoever asked for it is gone.

Run     `with process_tree(command, environment, log):`; as a program, `process_tree.py GRACE_S COMMAND...`, whose
        standard input is a pipe: its end says stop

Between the two stands a keeper, this file run by itself. It stops when the pipe ends, when its parent changes and on
SIGTERM. Under Linux, orphans of the command become its children (child subreaper), also those in sessions of their own,
so it finds and kills them all; and if the keeper itself is killed, the command gets SIGKILL from the kernel. On other
systems an orphan in a session of its own is not found.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_S = 4.0
"""Seconds between SIGTERM to the command and SIGKILL to all that is left."""
KILL_S = 4.0
"""Seconds after which whatever was sent SIGKILL is gone, unless the kernel holds it."""
POLL_S = 0.1
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

LEAKS = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""What a launcher or another environment would leak into a program that has its own."""


def end_of(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented for a message; nothing of one that is not there."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def clean_environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in LEAKS} | more


@contextmanager
def process_tree(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The keeper of a command, whose exit code is the command's. Output goes to `log`. Nothing outlives the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    keeper = [sys.executable, "-I", "-S", __file__, str(GRACE_S), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            keeper,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the command
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.terminate()
        process.stdin.close()
        try:
            process.wait(GRACE_S + KILL_S + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---------------------------------------------------------------------------------------------------------------------
# The keeper


def keep(grace_s: float, command: list[str]) -> int:
    """Run a command until it ends or somebody says stop, then end what is left; its exit code, as a shell gives it."""
    parent, told = os.getppid(), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    if LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_keeper if LINUX else None)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while process.poll() is None and not told and os.getppid() == parent:
        if select.select([sys.stdin], [], [], POLL_S)[0]:  # nobody writes: it is the end
            break
    code = end(process, grace_s)
    return 128 - code if code < 0 else code


def end(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM to the command, and after a while SIGKILL to it and to everything that it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    last = time.monotonic() + KILL_S
    while (left := descendants(os.getpid())) and time.monotonic() < last:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        reap(process)
        time.sleep(0.01)
    return process.wait()


def descendants(root: int) -> set[int]:
    """The processes below one, those that have ended and were not waited for left out."""
    children: dict[int, list[int]] = {}
    found: set[int] = set()
    for pid, parent, group, state in processes():
        if state != "Z":
            children.setdefault(parent, []).append(pid)
            if not LINUX and group == root and pid != root:  # an orphan has init for a parent
                found.add(pid)
    waiting = [root]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for orphans that ended; never for the command, whose exit code Popen keeps."""
    for pid, parent, _, _ in processes():
        if parent == os.getpid() and pid != process.pid:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def processes() -> Iterator[tuple[int, int, int, str]]:
    """Every process: its number, its parent, its group and the letter of its state."""
    if LINUX:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                state, parent, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
                yield int(stat.parent.name), int(parent), int(group), state
        return
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
        rows = [row.split() for row in ps.communicate()[0].splitlines()]
    for pid, parent, group, state in rows:
        if int(pid) != ps.pid:
            yield int(pid), int(parent), int(group), state[0]


def die_with_keeper() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(keep(float(sys.argv[1]), sys.argv[2:]))
