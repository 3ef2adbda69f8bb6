"""Stages as processes that can be killed, without the ten seconds that their imports take: forks of a server."""

import functools
import hashlib
import multiprocessing
import multiprocessing.process
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from posttrain.cli import main, quiet
from posttrain.launch.environment import WORKER
from posttrain.processes import pool

OUTS = ("models", "results")

# 38 traces: four steps and a part of one an epoch. 19 problems: four batches an epoch, of two passes each.
RECIPE: dict[str, dict[str, Any]] = {
    "prepare": {"max_train": 19},
    "sft": {"max_steps": 13, "warmup_steps": 2, "logging_steps": 3, "batch_size": 8},
    "grpo": {
        **{"max_steps": 20, "warmup_steps": 2, "logging_steps": 3, "num_iterations": 2},
        **{"prompts_per_step": 4, "num_generations": 4, "max_completion_length": 16},
    },
    "launch": {"processes": 1, "threads": 1, "micro_batch_size": 4},
}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def context() -> Any:
    """Start processes with everything imported. Nothing else is shared: each is a process of its own."""
    quiet()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    return context


@functools.cache
def judges() -> str:
    """Address of a fork server for what scores, as ranks have one of their supervisor: it warms up once, for two
    seconds, and not for each run."""
    server = forkserver.ForkServer()
    server.set_forkserver_preload([pool.__name__, pool.WARM])
    server.ensure_running()
    return str(server._forkserver_address)  # type: ignore[attr-defined]


class Run:
    """`posttrain STAGE` in a folder, in one process or in several that train together over gloo."""

    def __init__(
        self,
        context: Any,
        root: Path,
        stage: str,
        processes: int = 1,
        before: Callable[[], None] | None = None,
        log: str = "run.log",
    ) -> None:
        self.log = root / ".posttrain" / log
        self.log.parent.mkdir(exist_ok=True)
        self.log.write_text("")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            context.Process(target=run_stage, args=(root, stage, self.log, rank, processes, port, before, judges()))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def signal(self, number: int) -> None:
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def kill(self) -> bool:
        """SIGKILL to all; whether one was still alive."""
        alive = self.alive()
        self.signal(signal.SIGKILL)
        self.wait()
        return alive

    def wait(self, timeout_s: float = 120) -> int:
        """The exit code of the first process, once all have ended."""
        for process in self.processes:
            process.join(timeout_s)
            assert process.exitcode is not None, f"still running:\n{self.output()}"
        return int(self.processes[0].exitcode)

    def until(self, condition: Callable[[], object], timeout_s: float = 60) -> bool:
        """Wait for a condition; False if the run ended before it held."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if not self.alive():
                return bool(condition())
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.001)
        return True

    def output(self) -> str:
        return self.log.read_text()


def run_stage(
    root: Path,
    stage: str,
    log: Path,
    rank: int,
    processes: int,
    port: int,
    before: Callable[[], None] | None,
    judges: str,
) -> None:
    """In the fork: `before`, then the command as a user runs it, its output in a file."""
    os.chdir(root)
    handle = os.open(log if rank == 0 else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if processes > 1:
        join(rank, processes, port)
    pool.share_server(judges)
    if before is not None:
        before()
    sys.exit(main([stage]))


def own_server() -> None:
    """A fork server of this run alone, as a run in one process has it: it can be killed."""
    pool.use_server(forkserver.ForkServer())


def generate_for(steps: int) -> None:
    """TRL's steps_per_generation; params leave it at one optimizer step."""
    from posttrain.grpo import trainer

    trainer.GRPOConfig = functools.partial(trainer.GRPOConfig, steps_per_generation=steps)


def join(rank: int, processes: int, port: int) -> None:
    """What a launch of posttrain and torchrun tell a worker."""
    os.environ |= {WORKER: "1"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "POSTTRAIN_LAUNCH_PROCESSES": str(processes)}


def hashes(root: Path, stage: str) -> dict[str, str]:
    """The sha256 of each file that a stage published."""
    files = [path for out in OUTS for path in (root / out / stage).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def workspace(root: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A project folder: the graph, and params of a recipe of a second with what a resume can get wrong."""
    repository = Path(__file__).parents[1]
    shutil.copy(repository / "dvc.yaml", root)
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(repository / "params.yaml")
    for section, keys in [*RECIPE.items(), *changes.items()]:
        params[section].update(keys)
    params["model"]["scratch"].update(SMALL, num_key_value_heads=2)
    params["prepare"]["equations"].update(max_coefficient=3, max_solution=5, max_constant=3, traces_per_problem=2)
    yaml.dump(params, root / "params.yaml")
    return root
