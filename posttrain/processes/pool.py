"""Worker processes for calls that may never return: each call has a clock of its own, and the kernel ends it.

The clock counts CPU seconds, so that a busy machine changes no verdict, and it is the kernel's: SIGPROF, never handled,
ends a worker in the middle of a C call as well, where Python's signal handlers (math-verify's own limits, say) wait
for ever. Who asks keeps two further clocks: seconds asleep, for a call that waits, and seconds of the wall.

Workers share nothing, so that none can spoil another by its death: each has a pipe of its own. A call goes to it as a
pickle, its value comes back as JSON: nothing that a worker made is unpickled by who asks. A worker that is killed from
outside (the kernel out of memory, an operator) costs no value: the call is tried again in a fresh worker.

Workers come from Python's fork server, which holds no torch and no thread, so forking is safe and takes milliseconds.
It is warm (`WARM`); where the process has one already, from somebody else, each worker warms up before its first call.
The processes that train share the one of their supervisor, which its preflight has warmed.
When the process that asks dies, even by SIGKILL, the fork server ends and takes every worker with it.
"""

import contextlib
import ctypes
import importlib
import json
import multiprocessing
import os
import pickle
import resource
import selectors
import signal
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Self

from posttrain.processes.signals import signals_later

MEMORY_MIB = 2048
"""Address space that a call may add to a worker's. One that wants more fails with MemoryError or ends its worker."""

CALLS_PER_WORKER = 5000
"""Then it is replaced: sympy's caches would grow for ever."""

WALL_PER_CPU = 10
"""A call may take this many seconds of the wall for each CPU second that it is granted."""

TRIES = 3
"""Workers that a call may lose to a kill from outside; then it is lost itself."""

STARTS = 20
"""Workers in a row that may die before their first call; then what is left of the calls is lost."""

GRACE_S = 5.0
"""Seconds for a worker to end by itself."""

LOOK_S = 0.02
"""Seconds to the next look at a call that has slept enough, and runs just now."""

REPLY_MIB = 64
TEXT_CHARS = 2000
"""Length of an error's text."""

KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, -signal.SIGQUIT, 255}
"""Ends that somebody else brings about; 255 where the fork server died and nobody knows."""

WARM = "posttrain.judge.warm"
"""What workers start with: a process has one fork server, so it is the same for every pool, whichever starts it."""

PR_SET_PDEATHSIG = 1

Seen = Callable[[int, Any], None]


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
        self._team: list[Worker] = []
        self._ears = selectors.DefaultSelector()  # kept, because making one takes as long as the rest of a call
        # Also at the interpreter's end, which would wait for workers; not in a fork of it, which has none.
        weakref.finalize(self, end_all, self._team, os.getpid())

    def run(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        cpu_s: float,
        asleep_s: float | None = None,
        seen: Seen | None = None,
    ) -> list[Any]:
        """The value of `function(*arguments)` for each of `calls`, in their order; a `Lost` for one without a value.

        A value is plain data: what JSON can say. `asleep_s` bounds the seconds in which a call neither computes nor
        waits for a processor. `seen` gets each call's number and value as it comes; what it raises ends the run.

        Returns within about `len(calls) / workers * cpu_s * WALL_PER_CPU` seconds, whatever the calls do. On a machine
        that is not overloaded that is `len(calls) / workers * cpu_s`.
        """
        with self._lock:
            batch = Batch(function, calls, cpu_s, asleep_s, seen)
            for worker in [worker for worker in self._team if worker.process.exitcode is not None]:
                self._dismiss(worker)  # it died when nobody asked
            try:
                while batch.left:
                    self._staff(batch)
                    self._listen(batch)
            except BaseException:
                for worker in [worker for worker in self._team if worker.number is not None]:
                    self._dismiss(worker)
                raise
            return batch.values

    def _staff(self, batch: "Batch") -> None:
        """Start the workers that are missing, and give a call to each that has none."""
        for worker in [worker for worker in self._team if worker.number is None]:
            if worker.calls >= CALLS_PER_WORKER:
                self._dismiss(worker)
        wanted = min(self.workers, batch.left)
        while len(self._team) < wanted and time.monotonic() >= batch.start_after:
            try:
                self._team.append(Worker(self._ears))
            except (OSError, EOFError):  # the fork server died just now; the next start makes a new one
                batch.failed_start()
        for worker in self._team:
            if batch.waiting and worker.ready and worker.number is None:
                worker.give(batch.waiting.popleft(), batch)

    def _listen(self, batch: "Batch") -> None:
        """Take what workers say until the next clock may run out, and replace those that are gone."""
        heard = self._ears.select(self._patience_s(batch))
        for worker in dict.fromkeys(key.data for key, _ in heard):
            self._hear(worker, batch)
        for worker in [worker for worker in self._team if worker.number is not None]:
            if worker.due <= time.monotonic() and (over := worker.overdue(batch)):
                self._dismiss(worker)
                assert worker.number is not None
                batch.enter(worker.number, Lost("timeout", over))

    def _patience_s(self, batch: "Batch") -> float:
        dues = [worker.due for worker in self._team if worker.number is not None]
        if len(self._team) < min(self.workers, batch.left):
            dues.append(batch.start_after)
        if not batch.left:
            return 0
        return max(0.0, min(dues) - time.monotonic()) if dues else GRACE_S

    def _hear(self, worker: "Worker", batch: "Batch") -> None:
        number, reply = worker.number, worker.reply()
        if reply is None:
            code = self._dismiss(worker)
            if number is None:
                if not worker.ready:
                    batch.failed_start()
            elif code == -signal.SIGPROF:
                batch.enter(number, Lost("timeout", f"more than {batch.cpu_s:g} s of CPU"))
            elif code not in KILLED or not batch.try_again(number):
                batch.enter(number, Lost("crash", ended(code)))
        elif number is None:
            worker.ready, batch.failed_starts = True, 0
        else:
            worker.number = None
            batch.enter(number, Lost("error", reply["error"]) if "error" in reply else reply["value"])

    def _dismiss(self, worker: "Worker") -> int | None:
        """End a worker; its exit code."""
        self._team.remove(worker)
        return worker.end(GRACE_S if worker.gone else 0)

    def close(self) -> None:
        """End the workers. The next call starts new ones."""
        with self._lock:
            end_all(self._team, os.getpid())


class Batch:
    """The calls of one `Pool.run`, and what is known of them."""

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        cpu_s: float,
        asleep_s: float | None,
        seen: Seen | None,
    ) -> None:
        self.function, self.calls, self.cpu_s, self.asleep_s, self.seen = function, calls, cpu_s, asleep_s, seen
        self.wall_s = cpu_s * WALL_PER_CPU
        self.values: list[Any] = [None] * len(calls)
        self.left = len(calls)
        self.waiting = deque(range(len(calls)))
        self.losses: Counter[int] = Counter()
        self.failed_starts, self.start_after = 0, 0.0

    def enter(self, number: int, value: Any) -> None:
        self.values[number] = value
        self.left -= 1
        if self.seen is not None:
            self.seen(number, value)

    def try_again(self, number: int) -> bool:
        """Put a call that lost its worker at the end of the queue, unless it did so too often."""
        self.losses[number] += 1
        if self.losses[number] >= TRIES:
            return False
        self.waiting.append(number)
        return True

    def failed_start(self) -> None:
        """Wait longer after each worker that died before its first call, and in the end for none."""
        self.failed_starts += 1
        self.start_after = time.monotonic() + min(2.0, 0.05 * 2**self.failed_starts)
        if self.failed_starts >= STARTS:
            while self.waiting:
                self.enter(self.waiting.popleft(), Lost("crash", f"{STARTS} processes died before they began"))


def start_server() -> None:
    """Start the fork server, which warms up by itself; the first call waits for what is left of that."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, WARM])
    with signals_later():
        forkserver.ensure_running()


class SharedServer(forkserver.ForkServer):
    """A fork server that another process started, and whose end ends it; where it is gone, this process's own."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._forkserver_address = address
        self._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)  # in place of the pipe that only its owner holds

    def ensure_running(self) -> None:
        resource_tracker.ensure_running()

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        try:
            return super().connect_to_new_process(fds)
        except OSError:
            own = forkserver.ForkServer()
            use_server(own)
            return own.connect_to_new_process(fds)


def server_address() -> str:
    """Where this process's fork server listens; empty if it has none."""
    return getattr(forkserver._forkserver, "_forkserver_address", None) or ""


def share_server(address: str) -> None:
    """Let this process and its forks take workers from another's fork server, which is warm."""
    use_server(SharedServer(address))


def use_server(server: forkserver.ForkServer) -> None:
    """multiprocessing goes through these names of its module."""
    server.set_forkserver_preload([__name__, WARM])
    names = ("ensure_running", "connect_to_new_process", "set_forkserver_preload", "get_inherited_fds")
    vars(forkserver).update(_forkserver=server, **{name: getattr(server, name) for name in names})


class Worker:
    """One process and the pipe to it, from the side of who asks."""

    def __init__(self, ears: selectors.BaseSelector) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, WARM])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), name="posttrain worker")
        try:
            with signals_later():  # the fork server would tell of a process that it was asked for by halves
                self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        self.ears = ears
        for source in (self.pipe, self.process.sentinel):
            ears.register(source, selectors.EVENT_READ, self)
        self.ready = self.gone = False
        self.number: int | None = None
        """Of the call that it is at."""
        self.calls = 0
        self.began = self.due = 0.0
        self.awake_before = 0.0

    def give(self, number: int, batch: Batch) -> None:
        call = pickle.dumps((batch.cpu_s, batch.function, batch.calls[number]))
        with contextlib.suppress(OSError):  # it has died; its sentinel says so
            self.pipe.send_bytes(call)
        self.number, self.calls, self.began = number, self.calls + 1, time.monotonic()
        if batch.asleep_s is not None:
            self.awake_before = awake_s(self.process.pid) or 0.0
        self.due = self.began + min(batch.wall_s, batch.asleep_s or batch.wall_s)

    def reply(self) -> dict[str, Any] | None:
        """What it says, {} for hello; None if it is gone, or speaks no JSON."""
        try:
            if self.pipe.poll():
                said: dict[str, Any] = json.loads(self.pipe.recv_bytes(REPLY_MIB * 2**20))
                return said
        except (OSError, EOFError, ValueError):
            pass
        self.gone = True
        return None

    def overdue(self, batch: Batch) -> str | None:
        """Which of its clocks has run out; if none has, the next look is `due`."""
        now = time.monotonic()
        wall = now - self.began
        if wall > batch.wall_s:
            return f"more than {batch.wall_s:g} s"
        self.due = self.began + batch.wall_s
        if batch.asleep_s is not None and (awake := awake_s(self.process.pid)) is not None:
            left = batch.asleep_s - wall + (awake - self.awake_before)
            if left < 0 and not runs(self.process.pid):
                return f"more than {batch.asleep_s:g} s asleep"
            self.due = min(self.due, now + max(left, LOOK_S))
        return None

    def end(self, grace_s: float) -> int | None:
        """Close its pipe, which ends it, or kill it after `grace_s`; its exit code."""
        for source in (self.pipe, self.process.sentinel):
            self.ears.unregister(source)
        self.pipe.close()
        self.process.join(grace_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(GRACE_S)
            return None
        return self.process.exitcode


def end_all(team: list[Worker], owner: int) -> None:
    if os.getpid() != owner:
        return
    while team:
        worker = team.pop()
        worker.end(0.2 if worker.number is None else 0)


def ended(code: int | None) -> str:
    """How a worker ended."""
    if code is None:
        return "its process closed its pipe"
    return (
        f"its process ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with exit code {code}"
    )


def awake_s(pid: int | None) -> float | None:
    """Seconds for which a process has computed or waited for a processor; None where the kernel does not say."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:  # noqa: PTH123  for each call: half the time
            computed_ns, waited_ns, _ = file.read().split()
    except (OSError, ValueError):
        return None
    return (int(computed_ns) + int(waited_ns)) / 1e9


def runs(pid: int | None) -> bool:
    """Is it running, or would it? Time for which a container's quota holds a process back is nowhere counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):
        return False


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


def serve(pipe: Connection) -> None:
    """Hello, then one reply for each call, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    start_worker()
    with contextlib.suppress(OSError, EOFError):  # who asked has closed the pipe
        pipe.send_bytes(b"{}")
        while True:
            message = pipe.recv_bytes()
            pipe.send_bytes(answer(*pickle.loads(message)))


def answer(cpu_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """The call under its clock. Whatever it raises is told, an end of the process included."""
    restart_clock(cpu_s)
    try:
        return json.dumps({"value": function(*arguments)}).encode()
    except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt as well
        return json.dumps({"error": told(error)[:TEXT_CHARS]}).encode()
    finally:
        restart_clock(0)


def told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001  its __str__ raises as well
        return type(error).__name__


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


def restart_clock(cpu_s: float) -> None:
    """`cpu_s` CPU seconds from now until the kernel ends this process; 0 for no end. A call may restart its own."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
