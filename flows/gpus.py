"""The GPUs of a machine, shared by the flows on it: a stage holds as many slots of a limit as it takes GPUs.

Reads   params.yaml (`launch`), POSTTRAIN_LAUNCH_* and CUDA_VISIBLE_DEVICES, what the driver lists
Writes  a global concurrency limit of Prefect for the machine, if there is none; a person may then change its size
Run     with gpus("sft", Path.cwd()): ...

Slots count GPUs and do not choose them: two agents on one machine are given theirs by CUDA_VISIBLE_DEVICES.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from ruamel.yaml import YAML

from stages.errors import InputError
from stages.paths import PARAMS

LEASE_S = 60.0  # the slots of a flow that was killed are free again after it


@contextmanager
def gpus(stage: str, root: Path) -> Iterator[None]:
    """Hold as many of this machine's GPUs as the stage takes, in a limit that all agents of the machine share."""
    if not (taken := gpus_taken(stage, root)):
        yield
        return
    name = f"gpus of {platform.node()}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=len(gpus_here())))
    get_run_logger().info("takes %d of %s", taken, name)
    with concurrency(name, occupy=taken, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False):
        yield


def gpus_taken(stage: str, root: Path) -> int:
    """How many GPUs the stage's processes take: `launch.processes`, all visible ones if that is `auto`.

    Raises: InputError if there are fewer
    """
    visible = gpus_visible()
    strategy = launch("strategy", root, "auto")
    on_cpu = "cpu" in (launch("device", root, "auto"), strategy)
    if stage not in ("sft", "grpo", "evaluate") or not visible or on_cpu:
        return 0
    alone = stage == "evaluate" or strategy == "single"
    processes = 1 if alone else launch("processes", root, "auto")
    taken = len(visible) if processes == "auto" else int(processes)
    if taken > len(visible):
        raise InputError(
            "launch.processes",
            got=str(taken),
            wanted=f"at most the {len(visible)} GPUs that the agent on {platform.node()} sees",
            do="set POSTTRAIN_LAUNCH_PROCESSES where its worker starts, or launch.processes in params.yaml",
        )
    return taken


def launch(key: str, root: Path, default: str) -> str:
    """A key of `launch`: the agent's POSTTRAIN_LAUNCH_<KEY>, else that of params.yaml."""
    section: dict[str, Any] = YAML(typ="safe", pure=True).load(root / PARAMS).get("launch", {})
    return os.environ.get(f"POSTTRAIN_LAUNCH_{key.upper()}", str(section.get(key, default)))


def gpus_visible() -> list[str]:
    """The GPUs that a process of this agent may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus_here() if chosen is None else [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]


def gpus_here() -> list[str]:
    """The GPUs of this machine, as the driver lists them."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], check=True, capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if line.startswith("GPU ")]
