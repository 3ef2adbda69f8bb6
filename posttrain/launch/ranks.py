"""Starts the workers of DDP on this machine's processors, which need no more than ranks and a port to meet at.

Run     python -m posttrain.launch.ranks STAGE PROCESSES, by posttrain/launch/supervisor.py, which writes a line to its
        standard input when they may start: the address of its fork server, if it has one

Workers are forks of a process that has imported the stage and started no thread: TRL is imported once, and its pages
are shared. `accelerate launch` imports torch for itself, and then each worker imports everything.
"""

import os
import signal
import socket
import sys
import traceback

# Nothing heavy: multiprocessing imports this file in each process that scores.
from posttrain.errors import EXIT_BUG


def main(stage: str, processes: int) -> int:
    """The exit code of the worker that failed first, as soon as it has: the supervisor ends the others."""
    from posttrain.processes.pool import share_server
    from posttrain.run_stage import imported

    imported(stage)
    if not (line := sys.stdin.readline()):  # the preflight found a fault, or the supervisor is gone
        return 0
    if address := line.strip():
        share_server(address)
    port = free_port()
    for rank in range(processes):
        start(stage, rank, processes, port)
    for _ in range(processes):
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            print(f"signal {-code} ({signal.Signals(-code).name}) received by PID {pid}", flush=True)
        if code:
            return abs(code)
    return 0


def start(stage: str, rank: int, processes: int, port: int) -> None:
    """One worker, in the environment that torchrun makes."""
    from posttrain import worker

    if os.fork():
        return
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in {**ranks, **meeting}.items()})
    try:
        worker.main(stage)
    except BaseException:  # noqa: BLE001 - it may not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(EXIT_BUG)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
