"""One holder at a time of a lock file; the others wait, and say for whom.

Reads, writes  the lock file, which names the process that holds it
Run            with held(root / WORKSPACE_LOCK, print): ...
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from stages.paths import LOCKS

WORKSPACE_LOCK = LOCKS / "workspace.lock"
OURS: set[Path] = set()
"""Held by this process."""


@contextmanager
def held(path: Path, on_line: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock. The system releases it with the process, however that ends; the file stays.

    A record lock, not flock(2), which children of a killed holder would go on holding. It tells processes apart, not
    threads. What this process holds already stays held: closing the file a second time would let go of it.
    """
    name = path.resolve()
    if name in OURS:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        take(file, on_line)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        OURS.add(name)
        try:
            yield
        finally:
            OURS.remove(name)


def take(file: TextIO, on_line: Callable[[str], None]) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        on_line(f"waiting for process {file.read().strip() or '?'}, which holds {file.name}")
        fcntl.lockf(file, fcntl.LOCK_EX)
