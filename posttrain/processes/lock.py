"""One holder at a time of a lock file in this workspace.

Reads, writes  the lock file, which names the process that holds it
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

OURS: set[Path] = set()
"""Held by this process."""


@contextmanager
def held(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock. If another process does, `busy` hears its number; it raises, or we wait.

    The system releases the lock with the process, however that ends; the file stays. A record lock, not flock(2), which
    children of a killed holder would go on holding. It tells processes apart, not threads. What this process holds
    already stays held: closing the file a second time would let go of it.
    """
    name = path.resolve()
    if name in OURS:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            busy(file.read().strip() or "?")
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        OURS.add(name)
        try:
            yield
        finally:
            OURS.remove(name)
