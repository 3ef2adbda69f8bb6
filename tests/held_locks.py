"""Locks of a process under test, seen from outside."""

import fcntl
import time
from pathlib import Path


def is_released(path: str, within_s: float = 10) -> bool:
    """The kernel takes the lock from a process that ends, and from no other."""
    end = time.monotonic() + within_s
    with Path(path).open("r+") as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return True
    return False
