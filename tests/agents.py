"""A Prefect server on loopback, a DVC remote, and agents: clones of one project with a cache and a worker each."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clone import copy_project
from tests.processes import processes, wait

REPOSITORY = Path(__file__).parents[1]
POOLS = ("cpu", "gpu")
STAGE_MARK = "POSTTRAIN_STAGE_RUN="
TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}

# A training that waits for a worker in a session of its own, as torchrun does, for as long as the file `slow` exists.
STAGE = """
import pathlib, subprocess, sys, time

WORKER = '''
import pathlib, signal, sys, time
if pathlib.Path("stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while pathlib.Path("slow").exists():
    time.sleep(0.05)
'''
if (code := pathlib.Path("code")).exists():  # fails once
    number = int(code.read_text())
    code.unlink()
    sys.exit(number)
worker = subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True)
print("sft 1/10 | loss 0.5", flush=True)
worker.wait()
for out in ("models/sft/weights", "results/sft/metrics.json"):
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(out).write_text(pathlib.Path("data/prepared/rows").read_text())
"""
STAGES: dict[str, Any] = {
    "prepare": {
        "cmd": "mkdir -p data/prepared && grep ^seed params.yaml > data/prepared/rows",
        "params": ["seed"],
        "outs": ["data/prepared"],
    },
    "sft": {
        "cmd": "python stage.py",
        "deps": ["data/prepared", "stage.py"],
        "outs": ["models/sft"],
        "metrics": [{"results/sft/metrics.json": {"cache": False}}],
    },
    "report": {
        "cmd": "cat models/sft/weights results/sft/metrics.json > results/report.html",
        "deps": ["models/sft", "results/sft/metrics.json"],
        "outs": ["results/report.html"],
    },
}


@dataclass
class Site:
    """All of it in one folder. `home` is the project that was cloned, `clones` the agents' by their pool."""

    folder: Path
    code: Path | None = None
    """Where agents import posttrain from; their own clone if None."""
    variables: dict[str, str] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def clone(self, pool: str) -> Path:
        return self.folder / pool

    def environment(self, root: Path) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "POSTTRAIN_"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.code or root),
            "DVC_SITE_CACHE_DIR": str(self.folder / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "DO_NOT_TRACK": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "POSTTRAIN_HOME": str(root),
            **self.variables,
        }

    # -----------------------------------------------------------------------------------------------------------------
    # Processes

    def run(self, root: Path, *command: str, timeout: int = 300) -> str:
        """What a command prints in a folder; it has to succeed."""
        done = subprocess.run(
            command, cwd=root, env=self.environment(root), capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, name: str, root: Path, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=root,
                env=self.environment(root),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # In the background of a script it is ignored, and a Prefect worker would not stop.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        return self.processes[name]

    def start_server(self) -> None:
        self.start("server", self.folder, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        wait(self.healthy, 120)

    def healthy(self) -> bool:
        with suppress(OSError):
            return bool(self.ask("GET", "/health"))
        return False

    def start_worker(self, pool: str) -> None:
        command = ["prefect", "worker", "start", "--pool", pool, "--name", f"{pool}-agent"]
        self.start(pool, self.clone(pool), *command)

    def stop(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    # -----------------------------------------------------------------------------------------------------------------
    # The API

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"}, method=method)
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503:  # its database is busy
                    raise
                time.sleep(1.0)
        raise TimeoutError(f"the server is too busy for {path}")

    def submit(self, **parameters: Any) -> str:
        """The id of a new run of the whole chain."""
        deployment = self.ask("GET", "/deployments/name/posttrain-agents/run")["id"]
        return str(self.ask("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def flow_run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run}")
        return found

    def over(self, run: str, timeout_s: float = 240) -> dict[str, Any]:
        """The run when it has ended."""
        wait(lambda: self.flow_run(run)["state"]["type"] in TERMINAL, timeout_s, 0.5)
        return self.flow_run(run)

    def children(self, run: str) -> dict[str, dict[str, Any]]:
        """The flow runs of the stages of a chain, by stage."""
        query = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        return {child["parameters"]["stage"]: child for child in self.ask("POST", "/flow_runs/filter", query)}

    def tasks(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return found

    def states(self, run: str) -> dict[str, str]:
        return {stage: child["state"]["name"] for stage, child in self.children(run).items()}

    def said(self, run: str) -> str:
        query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(line["message"] for line in self.ask("POST", "/logs/filter", query))

    def slots(self) -> int:
        """GPUs that are held."""
        limits = self.ask("POST", "/v2/concurrency_limits/filter", {})
        return sum(limit["active_slots"] for limit in limits if limit["name"].startswith("gpus of "))

    def cancel(self, run: str) -> None:
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.ask("POST", f"/flow_runs/{run}/set_state", state)

    # -----------------------------------------------------------------------------------------------------------------
    # What is in the clones

    def stage_processes(self) -> set[int]:
        """The processes of stages, in whatever session: they have the mark of their run and work in a clone."""
        return {process for pool in POOLS for process in processes(self.clone(pool), STAGE_MARK)}

    def flow_process(self, run: str) -> int:
        """The process of a flow run."""
        return min(processes(None, f"PREFECT__FLOW_RUN_ID={run}", "prefect"))

    def locks(self, pool: str) -> list[int]:
        """The living processes for which DVC holds something in a clone."""
        path = self.clone(pool) / ".dvc/tmp/rwlock"
        pids = re.findall(r'"pid": (\d+)', path.read_text()) if path.exists() else []
        return [int(pid) for pid in pids if Path(f"/proc/{pid}").exists()]


@contextmanager
def site(
    folder: Path, home: Path, remote: dict[str, str], code: Path | None = None, **variables: str
) -> Iterator[Site]:
    """Clones of `home` with workers on both pools, and the deployments of prefect.yaml; over when the context is."""
    made = Site(folder, code, variables)
    for pool in POOLS:
        made.run(folder, "git", "clone", "--quiet", str(home), pool)
        made.run(made.clone(pool), "dvc", "remote", "add", "--local", "--default", "shared", remote["url"])
        for option, value in remote.items():
            made.run(made.clone(pool), "dvc", "remote", "modify", "--local", "shared", option, value)
    try:
        made.start_server()
        for pool in POOLS:
            made.run(folder, "prefect", "work-pool", "create", pool, "--type", "process")
        made.run(REPOSITORY, "prefect", "--no-prompt", "deploy", "--all")
        for pool in POOLS:
            made.start_worker(pool)
        yield made
    finally:
        for name in ("cpu", "gpu", "server"):
            if name in made.processes:
                made.stop(name, signal.SIGINT)


def path_with_gpus(folder: Path, gpus: int) -> str:
    """PATH with a driver in front, put into the folder, that lists so many GPUs."""
    driver = folder / "driver/nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {number}: stand-in'\n" for number in range(gpus)))
    driver.chmod(0o755)
    return os.pathsep.join([str(driver.parent), Site(folder).environment(folder)["PATH"]])


def shortened_project(root: Path) -> Path:
    """The project with the recipe of seconds, in a repository of its own."""
    copy_project(root)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    merge = [sys.executable, "-m", "posttrain", "recipe", "seconds"]
    subprocess.run(merge, cwd=root, env=environment, check=True, capture_output=True)
    return committed(root)


def committed(root: Path) -> Path:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "-A"], [*who, "commit", "--quiet", "-m", "project"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def trivial_project(root: Path) -> Path:
    """A project of three stages that take no time, in a repository of its own."""
    root.mkdir()
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=root, check=True)
    (root / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))  # JSON is YAML
    shipped = (REPOSITORY / "params.yaml").read_text()
    own = re.sub(r"(device|processes): \w+", r"\1: auto", shipped)  # what ships trains on the CPU
    (root / "params.yaml").write_text(own)
    (root / "stage.py").write_text(STAGE)
    (root / ".gitignore").write_text(".posttrain\n/models\n/data\n/results\nslow\nstubborn\ncode\n")
    return committed(root)
