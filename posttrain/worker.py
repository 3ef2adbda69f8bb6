"""One of the processes that train together: the launcher runs it once for each rank.

Run     python -m posttrain.worker STAGE, in the environment that torchrun makes

It holds a connection to the supervisor while it lives. Through it the supervisor learns how it ended (accelerate turns
every exit code into 1) or that it died without a word, and it learns that the supervisor has died, which ends it too.
"""

import atexit
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from posttrain.errors import EXIT_BUG
from posttrain.launch.layout import SOCKET


def main(stage: str) -> NoReturn:
    """The stage's command, with its end reported; ends the process."""
    from posttrain.cli import main as posttrain

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    with supervised() as supervisor:
        try:
            code = posttrain([stage])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else EXIT_BUG
        except BaseException:  # noqa: BLE001 - whatever it is, it is told before the process ends
            traceback.print_exc()
            code = EXIT_BUG
        if supervisor is not None:
            supervisor.sendall(json.dumps({"code": code}).encode() + b"\n")
    leave(code)


@contextmanager
def supervised() -> Iterator[socket.socket | None]:
    """A connection to the supervisor, our output where it wants it; None if nobody supervises."""
    faulthandler.enable()
    if (path := os.environ.pop(SOCKET, None)) is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX) as supervisor:
        supervisor.connect(path)
        rank = os.environ["RANK"]
        supervisor.sendall(json.dumps({"rank": int(rank), "pid": os.getpid()}).encode() + b"\n")
        _, outputs, _, _ = socket.recv_fds(supervisor, 1, 2)
        for output, ours in zip(outputs, (1, 2), strict=True):
            os.dup2(output, ours)
            os.close(output)
        threading.Thread(target=end_with, args=(supervisor,), daemon=True).start()
        yield supervisor


def end_with(supervisor: socket.socket) -> None:
    """Wait for the supervisor's end and follow. No exception could: the process may be waiting for another rank."""
    try:
        while supervisor.recv(1):
            pass
    except OSError:  # we are at our own end, and have closed it
        return
    if supervisor.fileno() != -1:
        os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End this process without its destructors: gloo's threads can abort it there, and the others with it.

    After a failure also without what libraries do at exit: that may wait for processes that are gone.
    """
    import torch.distributed

    if code == 0:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
