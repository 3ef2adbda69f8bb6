"""One holder at a time of a lock file in this workspace.

Reads, writes  the lock file, which names the process that holds it
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

Busy = Callable[[str], None]
"""Hears the number of the process that holds a lock; it raises, or we wait."""

OURS: dict[Path, tuple[TextIO, Busy]] = {}
"""Held by this process."""


@contextmanager
def held(path: Path, busy: Busy) -> Iterator[None]:
    """Hold the lock.

    The system releases the lock with the process, however that ends; the file stays. A record lock, not flock(2), which
    children of a killed holder would go on holding. It tells processes apart, not threads. What this process holds
    already stays held: closing the file a second time would let go of it.
    """
    name = path.resolve()
    if name in OURS:
        yield
        return
    OURS[name] = (taken(name, busy), busy)
    try:
        yield
    finally:
        OURS.pop(name)[0].close()


def keep_held() -> None:
    """Take again each lock of this process whose file somebody removed: whoever came since found none to wait for.

    Raises: what `busy` raises, if another process has it now
    """
    for name, (file, busy) in list(OURS.items()):
        if not names(name, file):
            OURS[name] = (taken(name, busy), busy)
            file.close()


def taken(name: Path, busy: Busy) -> TextIO:
    """The file of a lock, held; the one that has the name then, whoever removed another meanwhile."""
    while True:
        name.parent.mkdir(parents=True, exist_ok=True)
        file = name.open("a+")
        try:
            lock(file, busy)
            if names(name, file):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def lock(file: TextIO, busy: Busy) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        file.seek(0)
        busy(file.read().strip() or "?")
        fcntl.lockf(file, fcntl.LOCK_EX)


def names(name: Path, file: TextIO) -> bool:
    """Whether the name is that of the file that is open."""
    try:
        return os.path.samestat(name.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
