"""Runs of the flow `posttrain` as children of a flow run, each in a process of its own, so many at one time.

Writes  .posttrain/sweeps/EXPERIMENT.log for each; what the runs write
Run     run_points(points, 2, {"stages": None}, Path.cwd(), get_run_logger())

Processes, not threads: a stage in a thread cannot be interrupted, and a lock tells processes apart.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from prefect.states import Pending

from flows.pipeline import Setting, pipeline
from flows.stage_run import CLEAN_UP_S, COOKIE, GRACE_S, start_watchdog
from posttrain.paths import SWEEPS

ENTRYPOINT = "flows.pipeline.pipeline"
POLL_S = 0.2


@dataclass(frozen=True)
class Point:
    """Some params and the experiment that a run with them becomes."""

    experiment: str
    settings: dict[str, Setting]

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings.items())


def run_points(
    points: Sequence[Point], concurrency: int, parameters: Mapping[str, Any], root: Path, log: Any
) -> dict[str, str]:
    """The name of the state in which the run of each experiment ended."""
    waiting, states = list(points), dict[str, str]()
    cookie = f"points of {os.getpid()}:{uuid.uuid4().hex}"
    with get_client(sync_client=True) as client, ended_together(cookie) as running:
        while waiting or running:
            while waiting and len(running) < max(1, concurrency):
                point = waiting.pop(0)
                run_id = create_run(client, point, parameters)
                running[run_id] = point, start_run(client, run_id, point, root, cookie)
                log.info(f"{point} started | {root / SWEEPS / point.experiment}.log")
            for run_id in [run_id for run_id, (_, process) in running.items() if process.poll() is not None]:
                point, _ = running.pop(run_id)
                states[point.experiment] = state_of(client, run_id)
                log.info(f"{point} {states[point.experiment]} | {len(states)} of {len(points)}")
            time.sleep(POLL_S)
    return states


@contextmanager
def ended_together(cookie: str) -> Iterator[dict[UUID, tuple[Point, "subprocess.Popen[bytes]"]]]:
    """The processes that run; whatever interrupts or kills the sweep ends them, and each ends its stage first."""
    running: dict[UUID, tuple[Point, subprocess.Popen[bytes]]] = {}
    with start_watchdog(cookie) as dog:
        try:
            yield running
        finally:
            for _, process in running.values():
                process.send_signal(signal.SIGTERM)
            for _, process in running.values():
                try:
                    process.wait(GRACE_S + 3 * CLEAN_UP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            dog.kill()


def create_run(client: SyncPrefectClient, point: Point, parameters: Mapping[str, Any]) -> UUID:
    """A run of the flow `posttrain` that is a child of this flow run: Prefect ties them by a task run."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    child: Task[[], None] = Task(fn=lambda: None, name=point.experiment)
    parent = client.create_task_run(
        task=child, flow_run_id=context.flow_run.id, dynamic_key=point.experiment, state=Pending()
    )
    run = client.create_flow_run(
        pipeline,
        name=point.experiment,
        parameters={**parameters, "set": point.settings},
        parent_task_run_id=parent.id,
        state=Pending(),
    )
    return run.id


def start_run(
    client: SyncPrefectClient, run_id: UUID, point: Point, root: Path, cookie: str
) -> "subprocess.Popen[bytes]":
    """Prefect's engine on the run, in a session of its own: Ctrl-C is for the sweep, which tells it once."""
    path = root / SWEEPS / f"{point.experiment}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    code = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ours = {
        "PREFECT_API_URL": str(client.api_url),
        "PREFECT__FLOW_ENTRYPOINT": ENTRYPOINT,
        "PYTHONPATH": code,
        COOKIE: cookie,
    }
    with path.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect.engine", str(run_id)],
            cwd=root,
            env={**os.environ, **settings, **ours},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def state_of(client: SyncPrefectClient, run_id: UUID) -> str:
    """How the run ended; one whose process died without a word has not."""
    state = client.read_flow_run(run_id).state
    return str(state.name) if state is not None and state.is_final() else "Crashed"
