"""Worker processes: what a kill from outside costs, what a call may do to the process it is in, and what comes back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from posttrain.judge.verifier import Verifier
from posttrain.processes import pool as pool_module
from posttrain.processes.pool import Lost, Pool

BATCH = 398
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pool(verifier: Verifier) -> Iterator[Pool]:
    """Beside the verifier that tests share, because that one's fork server is warm."""
    with Pool(2) as pool:
        yield pool


# ---------------------------------------------------------------------------------------------------------------------
# Kills


def workers() -> list[int]:
    """Children of this process's fork server."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == server:
            found.append(int(stat.parent.name))
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def killing(rounds: int, every_s: float, server: bool = False) -> Iterator[list[int]]:
    """Kills every worker so many times, or the fork server, which takes them along; the list says how often it was."""
    over, done = threading.Event(), []

    def go() -> None:
        while len(done) < rounds and not over.wait(every_s):
            found = [forkserver._forkserver._forkserver_pid] if server else workers()  # type: ignore[attr-defined]
            for pid in found:
                kill(pid)
            done.extend(found[:1])

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def burn(cpu_s: float, value: int) -> int:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass
    return value


@pytest.mark.parametrize("rounds", [1, 2, 3, 9])
def test_kills_from_outside_cost_no_value(pool: Pool, rounds: int) -> None:
    with killing(rounds, 0.1) as done:
        assert pool.run(burn, [(0.005, number) for number in range(BATCH)], 5.0) == list(range(BATCH))
    assert len(done) == rounds


def test_kills_from_outside_cost_no_verdict(verifier: Verifier) -> None:
    golds = [f"\\sqrt{{{number}}}+\\sqrt{{3}}" for number in range(1000, 1000 + BATCH)]
    answers = [f"3^{{1/2}}+{number}^{{1/2}}" for number in range(1000, 1000 + BATCH)]
    with killing(3, 0.3) as done:
        assert verifier.verdicts(list(zip(golds, answers, strict=True))) == [True] * BATCH
    assert done


def test_the_fork_server_killed_in_a_batch_costs_no_value(pool: Pool) -> None:
    with killing(2, 0.5, server=True) as done:
        assert pool.run(burn, [(0.01, number) for number in range(BATCH)], 5.0) == list(range(BATCH))
    assert done
    assert pool.run(burn, [(0.0, 7)], 5.0) == [7]


def test_a_call_that_loses_every_worker_is_lost_and_no_other(pool: Pool) -> None:
    calls: list[tuple[Any, ...]] = [(os.getpid, ()), (suicide, ()), (int, ("5",))]
    _, lost, five = pool.run(do, calls, 5.0)
    assert lost == Lost("crash", "its process ended by SIGKILL")
    assert five == 5


def test_a_verdict_lost_by_kills_is_asked_again_in_the_next_batch(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TRIES", 1)
    monkeypatch.setattr(verifier, "timeout_s", 60.0)
    endless = ("\\sqrt{2}", "5^{(5^{(5^{(5^{5})})})} + 398")
    assert verifier.verdicts([("\\sqrt{2}", "2^{1/2}")]) == [True]  # the workers are there
    with killing(1, 0.5):
        assert verifier.verdicts([endless]) == [None]
    assert endless not in verifier._known
    monkeypatch.setattr(verifier, "timeout_s", 0.2)
    assert verifier.verdicts([endless]) == [None]
    assert endless in verifier._known  # its time ran out


def test_workers_that_cannot_start_end_the_batch_and_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr(pool_module.Worker, "__init__", refuse)
    monkeypatch.setattr(pool_module, "STARTS", 3)
    with Pool(2) as pool:
        assert [value.why for value in pool.run(abs, [(1,), (2,)], 1.0)] == ["crash", "crash"]


# ---------------------------------------------------------------------------------------------------------------------
# What a call does to its process


def do(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit(0)


def wordless() -> None:
    raise Wordless


@pytest.mark.parametrize(
    ("function", "arguments", "lost"),
    [
        (sys.exit, (0,), Lost("error", "SystemExit: 0")),
        (sys.exit, ("bye",), Lost("error", "SystemExit: bye")),
        (interrupt, (), Lost("error", "KeyboardInterrupt: ")),
        (os._exit, (0,), Lost("crash", "its process ended with exit code 0")),
        (os.abort, (), Lost("crash", "its process ended by SIGABRT")),
        (os.closerange, (3, 100), Lost("crash", "its process ended with exit code 0")),
        (wordless, (), Lost("error", "Wordless")),
        (time.sleep, (30,), Lost("timeout", "more than 0.5 s asleep")),
        (burn, (30, 1), Lost("timeout", "more than 0.5 s of CPU")),
    ],
)
def test_how_a_call_without_a_value_ends(
    pool: Pool, function: Callable[..., Any], arguments: tuple[Any, ...], lost: Lost
) -> None:
    assert pool.run(do, [(function, arguments), (abs, (-3,))], 0.5, asleep_s=0.5) == [lost, 3]


def test_waiting_for_a_processor_is_not_sleep(pool: Pool) -> None:
    with Pool(4 * (os.cpu_count() or 2)) as crowd:
        crowd.run(abs, [(1,)] * 64, 1.0)
        assert crowd.run(burn, [(0.4, number) for number in range(crowd.workers)], 3.0, asleep_s=0.2) == list(
            range(crowd.workers)
        )


# ---------------------------------------------------------------------------------------------------------------------
# What comes back


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


class TrapError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(str(self)),)


def springs(path: str) -> None:
    raise TrapError(path)


def test_nothing_that_a_worker_made_is_unpickled_here(pool: Pool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    returned, raised = pool.run(do, [(Trap, (str(sprung),)), (springs, (str(sprung),))], 5.0)
    assert returned == Lost("error", "TypeError: Object of type Trap is not JSON serializable")
    assert raised == Lost("error", f"TrapError: {sprung}")
    assert not sprung.exists()


def test_plain_data_come_back_as_they_were(pool: Pool) -> None:
    values = [None, True, 0.1 + 0.2, 5e-324, 2**70, "\ud800☕", [1, [2.5]], {"a": None}]
    assert pool.run(do, [(_same, (value,)) for value in values], 5.0) == values


def _same(value: Any) -> Any:
    return value


def test_what_the_caller_raises_ends_the_run_and_the_pool_goes_on(pool: Pool) -> None:
    def refuse(number: int, value: Any) -> None:
        if isinstance(value, Lost):
            raise ValueError(number)

    began = time.monotonic()
    with pytest.raises(ValueError, match="1"):
        pool.run(do, [(time.sleep, (60,)), (sys.exit, ()), *[(time.sleep, (60,))] * 20], 30.0, seen=refuse)
    assert time.monotonic() - began < 20
    assert pool.run(abs, [(-1,)], 5.0) == [1]


SHARED = """
import os, sys
from posttrain.processes.pool import Pool, share_server

if __name__ == "__main__":
    share_server(sys.argv[1])
    if os.fork() == 0:
        with Pool(1) as pool:
            print(pool.run(os.getppid, [()], 5.0)[0], flush=True)
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_process_takes_workers_from_the_fork_server_of_another(pool: Pool, tmp_path: Path, there: bool) -> None:
    """As forks that train do. Where that one is gone, from one of its own."""
    server = pool.run(os.getppid, [()], 5.0)[0]
    program = tmp_path / "program.py"
    program.write_text(SHARED)
    address = pool_module.server_address() if there else str(tmp_path / "gone")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program), address], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(done.stdout) == server) == there
    assert done.stderr == ""
    assert pool.run(os.getppid, [()], 5.0) == [server]  # whose other workers go on


INTERRUPTED = """
import os, signal, sys
from multiprocessing import forkserver
from posttrain.processes.pool import Pool
from posttrain.processes.signals import sigterm_exits

def main():
    send = forkserver.reduction.sendfds

    def interrupted(*arguments):  # the fork server has taken the call, and waits for what to do
        os.kill(os.getpid(), {number})
        return send(*arguments)

    with sigterm_exits(), Pool(1) as pool:
        pool.run(abs, [(-1,)], 5.0)
        pool.close()
        forkserver.reduction.sendfds = interrupted
        pool.run(abs, [(-1,)], 5.0)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_worker_starts_ends_us_and_nobody_else_speaks(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED.replace("{number}", str(int(number))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (128 + number if number == signal.SIGTERM else -number), done.stderr
    assert "EOFError" not in done.stderr  # the fork server's
    assert "_serve_one" not in done.stderr
