"""The processes that came of what a test started, and no other test's: found through /proc by what they inherited."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def processes(folder: Path | None = None, mark: str = "", command: str = "") -> dict[int, str]:
    """Command line of each process, by its number: of those that work in the folder, have the mark in their
    environment and the command in their command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if folder is not None and (process / "cwd").readlink() != folder:
                continue
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if mark.encode() in (process / "environ").read_bytes() and command in line:
                found[int(process.name)] = line
    return found


def wait(condition: Callable[[], object], timeout_s: float, every_s: float = 0.05) -> float:
    """The seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "did not happen in time"
        time.sleep(every_s)
    return time.monotonic() - began
