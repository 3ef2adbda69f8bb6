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

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError

from posttrain.errors import InputError
from posttrain.launch.layout import count
from posttrain.params.file import load_params
from posttrain.paths import PARAMS

LEASE_S = 60.0  # the slots of a flow that was killed are free again after it
KEEPS_LEASES = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"


@contextmanager
def gpus(stage: str, root: Path) -> Iterator[None]:
    """Hold as many of this machine's GPUs as the stage takes, in a limit that all agents of the machine share."""
    if not (taken := gpus_taken(stage, root)):
        yield
        return
    name = f"gpus of {platform.node()}"
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            limit = max(taken, len(gpus_here()))
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
        if forgets_leases(client):
            logger.warning("a server that starts again would leave %s taken; start it with %s", name, KEEPS_LEASES)
    logger.info("takes %d of %s", taken, name)
    with concurrency(name, occupy=taken, lease_duration=LEASE_S, strict=True, raise_on_lease_renewal_failure=False):
        yield


def forgets_leases(client: SyncPrefectClient) -> bool:
    """Whether the server keeps in memory who holds what; as far as it says so, which Prefect Cloud does not."""
    try:
        settings = client.request("GET", "/admin/settings").json()
    except PrefectHTTPStatusError:
        return False
    return str(settings["server"]["concurrency"]["lease_storage"]).endswith(".memory")


def gpus_taken(stage: str, root: Path) -> int:
    """How many GPUs of this machine the stage takes: one for each of its processes, and those of its vLLM server.

    Raises: InputError if there are fewer, or if params are not valid.
    """
    visible = gpus_visible()
    if stage not in ("sft", "grpo", "evaluate") or not visible:
        return 0
    params = load_params(root / PARAMS)
    launch, vllm = params.launch, params.launch.vllm
    if "cpu" in (launch.device, launch.strategy):
        return 0
    if stage == "evaluate":
        return len(vllm.gpus) if params.evaluate.use_vllm else 1
    processes = -(-count(launch, len(visible)) // launch.machines)
    if processes > len(visible):
        raise InputError(
            "launch.processes",
            got=str(processes),
            wanted=f"at most the {len(visible)} GPUs that the agent on {platform.node()} sees",
            do="set POSTTRAIN_LAUNCH_PROCESSES where its worker starts, or launch.processes in params.yaml",
        )
    serves = stage == "grpo" and params.grpo.use_vllm and vllm.starts_server
    return processes + (len(vllm.gpus) if serves else 0)


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
