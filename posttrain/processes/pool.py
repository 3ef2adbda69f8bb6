"""Worker processes for calls that may never return: each call has a clock of its own, and the kernel ends it.

The clock counts CPU seconds, so that a busy machine changes no verdict, and it is the kernel's: SIGPROF, never handled,
ends a worker in the middle of a C call as well, where Python's signal handlers (math-verify's own limits, say) wait
for ever. A second clock in seconds of the wall ends a call that sleeps. pebble starts a new worker after each end.

Workers come from Python's fork server, which holds no torch and no thread, so forking is safe and takes milliseconds.
It is warm (`WARM`); where the process has one already, from somebody else, each worker warms up before its first call.
When the process that asks dies, even by SIGKILL, the fork server ends and takes every worker with it.
"""

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal, Self

from pebble import ProcessExpired, ProcessPool

MEMORY_MIB = 2048
"""Address space that a call may add to a worker's. One that wants more fails with MemoryError or ends its worker."""

CALLS_PER_WORKER = 5000
"""Then it is replaced: sympy's caches would grow for ever."""

WALL_PER_CPU = 10
"""A call may take this many seconds of the wall for each CPU second that it is granted."""

WARM = "posttrain.judge.warm"
"""What workers start with: a process has one fork server, so it is the same for every pool, whichever starts it."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Lost:
    """A call without a value: its clock ran out, its worker died, or it raised."""

    why: Literal["timeout", "crash", "error"]
    text: str


class Closing:
    """What owns processes: `with` closes it at the end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pool(Closing):
    """`workers` processes, started by the first call. Safe to use from several threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], cpu_s: float) -> list[Any]:
        """The value of `function(*arguments)` for each of `calls`, in their order; a `Lost` for one without a value.

        Returns within about `len(calls) / workers * cpu_s * WALL_PER_CPU` seconds, whatever the calls do. On a machine
        that is not overloaded that is `len(calls) / workers * cpu_s`.
        """
        if not calls:
            return []
        with self._lock:
            try:
                return self._run(function, calls, cpu_s)
            except (RuntimeError, BrokenProcessPool):  # pebble gives up if a worker dies before it has said hello
                self._stop()
                return self._run(function, calls, cpu_s)

    def _run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], cpu_s: float) -> list[Any]:
        pool = self._start()
        wall_s = cpu_s * WALL_PER_CPU
        futures = [pool.schedule(timed, args=(cpu_s, function, arguments), timeout=wall_s) for arguments in calls]
        return [self._value(future, cpu_s) for future in futures]

    def _value(self, future: Any, cpu_s: float) -> Any:
        try:
            return future.result()
        except TimeoutError:
            return Lost("timeout", f"more than {cpu_s * WALL_PER_CPU:g} s")
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGPROF:
                return Lost("timeout", f"more than {cpu_s:g} s of CPU")
            return Lost("crash", f"its process ended with {error.exitcode}")
        except BrokenProcessPool:
            raise
        except Exception as error:  # noqa: BLE001  whatever the call raised, in its own process
            return Lost("error", f"{type(error).__name__}: {error}")

    def _start(self) -> ProcessPool:
        if self._pool is None or not self._pool.active:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, WARM])
            self._pool = ProcessPool(self.workers, CALLS_PER_WORKER, start_worker, context=context)
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def close(self) -> None:
        """End the workers. The next call starts new ones."""
        with self._lock:
            self._stop()


def start_worker() -> None:
    """Runs first in each worker, on no call's clock: warm, bounded memory, no core files, the fork server's end."""
    importlib.import_module(WARM)
    if sys.platform == "linux":  # on top of what is there: the fork server may be somebody else's and hold torch
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_MIB * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Workers inherit the pipe whose other end tells the fork server that somebody lives; it must be the parent's alone.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the fork server ended before the line above
            os.kill(os.getpid(), signal.SIGKILL)


def timed(cpu_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The call, in the worker, under its clock."""
    restart_clock(cpu_s)
    try:
        return function(*arguments)
    finally:
        restart_clock(0)


def restart_clock(cpu_s: float) -> None:
    """`cpu_s` CPU seconds from now until the kernel ends this process; 0 for no end. A call may restart its own."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
