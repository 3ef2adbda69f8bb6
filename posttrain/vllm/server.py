"""The vLLM server that posttrain starts, waits for and stops, and one that runs already.

Reads   `launch.vllm`, `grpo`, `seed` and `model`
Writes  .posttrain/logs/vllm-<stage>.log

It is vLLM's own with what TRL wants of it; `trl vllm-serve` is deprecated and starts the same.
"""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from posttrain.errors import InputError, PosttrainError
from posttrain.launch.environment import is_worker
from posttrain.params.launch import VLLM
from posttrain.params.schema import Params
from posttrain.paths import SFT_MODEL, TRACKER_LOGS
from posttrain.processes.process_tree import clean_environment, end_of, process_tree
from posttrain.vllm.rollouts import interpreter, require_free_port

WEIGHT_SYNC = (
    *("--weight-transfer-config", json.dumps({"backend": "nccl"})),
    *("--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"),
)
"""Options with which a server takes new weights, and reports the probabilities that TRL's correction needs."""

CPU_BUILD = ["--no-enable-chunked-prefill"]
"""Options of a server without GPUs. A prompt that is read in parts draws a token too many, which the engine takes back
from the request's generator; torch has that for GPUs only, and the server would end with the first seeded request."""

SERVER = "POSTTRAIN_VLLM_SERVER"
"""Set while a server of grpo runs, for the processes below: it is theirs to use and not to start."""

POLL_S = 0.1
STUCK_S = 600.0
"""A step and its checkpoint take less."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Requests past any proxy: the servers are on this machine or in its network."""


def command(params: Params, model: Path, takes_weights: bool) -> list[str]:
    vllm = params.launch.vllm
    options: dict[str, object] = {
        "host": vllm.server_host,
        "port": vllm.server_port,
        "tensor-parallel-size": vllm.tensor_parallel_size,
        "gpu-memory-utilization": vllm.gpu_memory_utilization,
        "max-model-len": vllm.max_model_length,
        "dtype": params.model.dtype,
        "seed": params.seed,
        "model-impl": params.grpo.trl.get("vllm_model_impl", "vllm") if takes_weights else "auto",
        "generation-config": "vllm",  # or generation_config.json of the model would fill in what a request leaves out
    }
    named = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    named += ["--trust-remote-code"] if params.model.trust_remote_code else []
    named += WEIGHT_SYNC if takes_weights else []
    named += [] if vllm.gpus else CPU_BUILD
    return [interpreter(vllm), "-m", "vllm.entrypoints.cli.main", "serve", str(model), *named]


def environment(vllm: VLLM, takes_weights: bool) -> dict[str, str]:
    more = {"VLLM_SERVER_DEV_MODE": "1"} if takes_weights else {}  # the endpoints that do are for development
    return clean_environment(
        CUDA_VISIBLE_DEVICES=",".join(map(str, vllm.gpus)),
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        **more,
    )


@contextmanager
def rollout_server(params: Params) -> Iterator[None]:
    """What grpo generates with, if that is a server: started here, or running elsewhere and ready.

    In a launch of several processes the one that starts them enters this; in those it does nothing.
    A server that ends meanwhile ends this process as SIGTERM does: training would wait for it for ever.
    """
    vllm = params.launch.vllm
    if not params.grpo.use_vllm or vllm.mode == "colocate" or SERVER in os.environ or is_worker():
        yield
    elif vllm.server_base_url is not None:
        wait_until_ready(vllm.server_base_url, vllm.server_timeout)
        require_version(vllm.server_base_url)
        yield
    else:
        require_free_port("group_port", vllm.server_host, vllm.group_port)
        with serving(params, "grpo", SFT_MODEL, takes_weights=True) as (url, process):
            require_version(url)
            with announced(url, vllm.server_host), ends_this_process(process):
                yield


@contextmanager
def serving(
    params: Params, stage: str, model: Path, takes_weights: bool = False
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server of one model that is ready: its address, and the process whose end is its end.

    Raises: InputError if its port is taken or it is not ready in time; PosttrainError with the end of its log if it
    dies, whatever error that caused.
    """
    vllm, log = params.launch.vllm, TRACKER_LOGS / f"vllm-{stage}.log"
    url = f"http://{vllm.server_host}:{vllm.server_port}"
    require_free_port("server_port", vllm.server_host, vllm.server_port)
    with process_tree(command(params, model, takes_weights), environment(vllm, takes_weights), log) as process:
        try:
            wait_until_ready(url, vllm.server_timeout, process, log)
            print(f"{stage} | vLLM {version(url)} serves {model} at {url} | log: {log}", flush=True)
            yield url, process
        except BaseException as error:
            with suppress(subprocess.TimeoutExpired):  # a client may see the end of a server before its parent does
                process.wait(0.3)
            if process.poll() is None:
                raise
            raise PosttrainError(f"the vLLM server exited with {process.returncode}{told(log)}") from error


@contextmanager
def announced(url: str, host: str) -> Iterator[None]:
    """Processes below know of the server, and go to it past any proxy: `requests`, which TRL uses, would take one."""
    past = [os.environ[name] for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)]
    before = {name: os.environ.get(name) for name in (SERVER, "no_proxy")}
    os.environ |= {SERVER: url, "no_proxy": ",".join([*past, host])}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def ends_this_process(server: "subprocess.Popen[bytes]") -> Iterator[None]:
    """SIGTERM to this process if the server ends within the block, and SIGKILL if the block goes on all the same."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            if server.poll() is not None:
                os.kill(os.getpid(), signal.SIGTERM)
                if not over.wait(STUCK_S):  # in a transfer of weights that nothing will end
                    print(
                        "grpo | the vLLM server ended, and training waits for it: killed", file=sys.stderr, flush=True
                    )
                    os.kill(os.getpid(), signal.SIGKILL)
                return

    thread = threading.Thread(target=watch, name="vllm-server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_until_ready(
    url: str, timeout_s: float, process: "subprocess.Popen[bytes] | None" = None, log: Path | None = None
) -> None:
    """Raises: InputError if no server is healthy there in time, PosttrainError if `process` ends before."""
    last = time.monotonic() + timeout_s
    while (seen := health(url)) != "200":
        if process is not None and process.poll() is not None:
            raise PosttrainError(f"the vLLM server exited with {process.returncode}")
        if time.monotonic() > last:
            raise InputError(
                f"{url}/health",
                got=f"{seen} after {timeout_s:g} s (launch.vllm.server_timeout){told(log)}",
                wanted="a vLLM server that is ready",
                do="look at its log; raise the time if it was still loading",
            )
        time.sleep(POLL_S)


def health(url: str) -> str:
    """The status of the answer, or why there is none."""
    try:
        with DIRECT.open(f"{url}/health", timeout=5) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return f"no answer ({getattr(error, 'reason', error)})"


def version(url: str) -> str:
    with DIRECT.open(f"{url}/version", timeout=30) as answer:
        return str(json.load(answer)["version"])


def require_version(url: str) -> None:
    """Raises: InputError if server and trainer are of two versions, whose ways to send weights may differ."""
    theirs, ours = version(url), importlib.metadata.version("vllm")
    if theirs != ours:
        raise InputError(
            f"{url}/version",
            got=f"vLLM {theirs}, and {ours} in the environment that trains",
            wanted="the same version in both",
            do="start the server from an environment made by `make vllm`, as the one that trains",
        )


def told(log: Path | None) -> str:
    """Where the log of a server that is ours is, and how it ends."""
    return "" if log is None else f"; its log is {log}; it ends:\n{end_of(log)}"
