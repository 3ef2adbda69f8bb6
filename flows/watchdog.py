"""Ends what a flow started when the flow has died without doing so: SIGKILL, out of memory.

Reads   its standard input until it closes, which it does when the flow ends, however that happens
Run     python -m flows.watchdog MARK PID, by `flows.stage_run`: the mark of the processes, and which is dvc; 0 if none

In a session of its own, so what kills the flow's group does not reach it; without the mark, so it does not end itself.
"""

import signal
import sys
import time

from flows.stage_run import GRACE_S, POLL_S, living, send


def end(mark: str, dvc: int) -> None:
    """SIGINT to dvc and SIGTERM to the rest, as `flows.stage_run.stop`; SIGKILL to what is left after the grace."""
    told = {dvc}
    if dvc:
        send(dvc, signal.SIGINT)
    deadline = time.monotonic() + GRACE_S
    while (found := living(dvc, mark)) and time.monotonic() < deadline:
        for pid in found - told:
            send(pid, signal.SIGTERM)
        told |= found
        time.sleep(POLL_S)
    for pid in found:
        send(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1], int(sys.argv[2]))
