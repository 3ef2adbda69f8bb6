"""Runs a case in a fork of this process, in which everything is imported, and judges what came out."""

import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from tests.surface.case import Case, put

LIMIT_S = 40.0
"""Wall-clock seconds after which a case hangs; others may share the machine."""
CPU_S = 30
MEMORY_B = 6 * 2**30
TURNS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
FAULTS = ("traceback", "wrongly accepted", "wrongly refused", "unclear", "hang", "control characters")
OUTCOMES = ("clear", "rightly accepted", "either way", *FAULTS)
"""`either way`: accepted, and nobody is told that it has to be refused or accepted."""


@dataclass(frozen=True)
class Outcome:
    verdict: str
    code: int | None
    text: str


def judge(case: Case, root: Path) -> Outcome:
    """The outcome of a case in a copy of the project in `root`."""
    with tempfile.TemporaryDirectory(prefix="surface-") as folder:
        work = Path(folder) / "project"
        shutil.copytree(root, work, symlinks=True)
        put(work, case.files)
        (Path(folder) / "stdin").write_bytes(case.stdin)
        code = run(case, work)
        said = (Path(folder) / "said").read_bytes().decode("utf-8", "surrogateescape")
    return Outcome(verdict(case, code, said), code, said)


def verdict(case: Case, code: int | None, said: str) -> str:
    if code is None:
        return "hang"
    if code in (1, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL) or "Traceback (most recent" in said:
        return "traceback"
    if any(harmful(character) for character in said):
        return "control characters"
    if code == 0:
        return {"refused": "wrongly accepted", "accepted": "rightly accepted"}.get(case.expected, "either way")
    if case.expected == "accepted":
        return "wrongly refused"
    return "clear" if said.strip() else "unclear"


def harmful(character: str) -> bool:
    return character not in "\n\t" and (unicodedata.category(character) in {"Cc", "Cs"} or character in TURNS)


def run(case: Case, work: Path) -> int | None:
    """The exit code, or minus the signal; None if it did not end."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        become(case, work)
    code = waited(pid)
    end_group(pid)
    return code


def waited(pid: int) -> int | None:
    handle = os.pidfd_open(pid)
    try:
        ready = select.select([handle], [], [], LIMIT_S)[0]
    finally:
        os.close(handle)
    if not ready:
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if not ready or code == -signal.SIGXCPU else code


def end_group(pid: int) -> None:
    """Nothing that a case started outlives it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def become(case: Case, work: Path) -> None:
    """In the fork: the command as a process has it, with limits. Does not return."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(work)
        streams(work.parent)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_B, MEMORY_B))
        os.environ.update(case.environment)
        sys.argv = [case.program, *case.argv]
        code = called(case)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does with what nobody caught
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = 1
        os._exit(code)


def streams(folder: Path) -> None:
    given, said = (
        os.open(folder / name, flags, 0o600)
        for name, flags in (("stdin", os.O_RDONLY), ("said", os.O_RDWR | os.O_CREAT | os.O_APPEND))
    )
    for number, handle in enumerate((given, said, said)):
        os.dup2(handle, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def called(case: Case) -> int:
    if case.program == "flow":
        return flow(list(case.argv))
    from posttrain.cli import main

    return main(list(case.argv))


def flow(argv: list[str]) -> int:
    """The flow's program up to Prefect's server, which nobody's input reaches unchecked."""
    from flows import pipeline

    def end() -> None:
        raise SystemExit(0)

    pipeline.start_server = end
    return pipeline.main(argv)
