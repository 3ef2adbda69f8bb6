"""A call of what somebody else wrote, in a fork of this process: the kernel ends it when it takes too long or too much.

The fork has everything that is imported here, so that a call costs milliseconds. For calls that compute with Python
alone: other threads of this process, and what the accelerator holds, are not in the fork. Calls by the hundred go to
workers (`pool.py`), which are clean.
"""

import json
import os
import resource
import select
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from posttrain.processes.signals import signals_later

WALL_PER_CPU = 30
"""Seconds of the wall for each CPU second that a call is granted, on a machine that others share."""
MEMORY_MIB = 512
"""Address space that a call may add."""


class Unbounded(Exception):
    """A call that took more than it was granted; the text says of what."""


def bounded(call: Callable[[], Any], cpu_s: float) -> Any:
    """The value of a call, plain data; None if it raises.

    Raises: Unbounded
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reads, writes = os.pipe()
    pid = 0
    try:
        # Python drops what is raised in a hook of the fork, and one of them holds the lock of `logging`.
        with warnings.catch_warnings(), signals_later():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: this process may have threads
            pid = os.fork()
            if pid == 0:
                become(call, cpu_s, writes)
            os.close(writes)
        said = heard(reads, cpu_s * WALL_PER_CPU)
    finally:
        os.close(reads)
        if pid:
            os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if said is None or code == -signal.SIGPROF:
        raise Unbounded(f"takes more than {cpu_s:g} s of CPU")
    if not said:
        raise Unbounded("ends the process that calls it")
    value = json.loads(said)
    if value == {"memory": True}:
        raise Unbounded(f"takes more than {MEMORY_MIB} MiB of memory")
    return value


def heard(reads: int, seconds: float) -> bytes | None:
    """All that the fork says until it ends; None if it does not."""
    said = b""
    while select.select([reads], [], [], seconds)[0]:
        if not (part := os.read(reads, 1 << 16)):
            return said
        said += part
    return None


def become(call: Callable[[], Any], cpu_s: float, writes: int) -> NoReturn:
    """In the fork. Nothing of the process that it was made from ends with it: no files, no handlers of exits."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        bound_memory()
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        os.write(writes, value_of(call))
    finally:
        os._exit(0)


def value_of(call: Callable[[], Any]) -> bytes:
    try:
        return json.dumps(call()).encode()
    except MemoryError:
        return b'{"memory": true}'
    except Exception:  # noqa: BLE001 - whoever calls gets it from its own call, once that is known to end
        return b"null"


def bound_memory() -> None:
    """On top of what is there, which may be a model."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_MIB * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
