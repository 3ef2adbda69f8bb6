"""Starts the workers of DDP on this machine's processors, which need no more than ranks and a port to meet at.

Run     python -m posttrain.launch.ranks STAGE PROCESSES, by posttrain/launch/supervisor.py

`accelerate launch` imports torch first, seconds before a worker starts to do so.
"""

import os
import signal
import socket
import subprocess
import sys


def main(stage: str, processes: int) -> int:
    """The exit code of the worker that failed first, as soon as it has: the supervisor ends the others."""
    port = free_port()
    workers = {worker.pid: worker for worker in (start(stage, rank, processes, port) for rank in range(processes))}
    for _ in range(processes):
        pid, status = os.wait()
        code = workers[pid].returncode = os.waitstatus_to_exitcode(status)
        if code < 0:
            print(f"signal {-code} ({signal.Signals(-code).name}) received by PID {pid}", flush=True)
        if code:
            return abs(code)
    return 0


def start(stage: str, rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    """One worker, in the environment that torchrun makes."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in {**ranks, **meeting}.items()}}
    return subprocess.Popen([sys.executable, "-m", "posttrain.worker", stage], env=environment)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
