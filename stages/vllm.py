"""vLLM: what TRL is told of it, whether it can work here, and the server that posttrain starts and stops.

Reads   `launch.vllm`, `grpo.use_vllm`, `seed` and `model`; CUDA_VISIBLE_DEVICES
Writes  .posttrain/logs/vllm-<stage>.log
Run     posttrain grpo with `grpo.use_vllm: true`, posttrain evaluate with `evaluate.use_vllm: true`; docs/vllm.md

The server is vLLM's own with what TRL wants of it; `trl vllm-serve` is deprecated and starts the same.
"""

import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.errors import InputError, PosttrainError
from stages.launch import layout
from stages.params import VLLM, Params
from stages.paths import SFT_MODEL, TRACKER_LOGS
from stages.process_tree import clean_environment, process_tree

TRLS = (
    *("mode", "tensor_parallel_size", "gpu_memory_utilization", "max_model_length", "enable_sleep_mode"),
    *("server_base_url", "server_host", "server_port", "server_timeout", "group_port"),
)
"""Keys of `launch.vllm` that GRPOConfig takes as `vllm_<key>`."""

WEIGHT_SYNC = (
    *("--weight-transfer-config", json.dumps({"backend": "nccl"})),
    *("--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"),
)
"""With which a server takes new weights, and reports the probabilities that TRL's correction needs."""

SERVER = "POSTTRAIN_VLLM_SERVER"
"""Set while a server of grpo runs, for the processes below: it is theirs to use and not to start."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
POLL_S = 0.1
STUCK_S = 600.0
"""A step and its checkpoint take less."""
TAIL = 15

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Requests past any proxy: the servers are on this machine or in its network."""


# ---------------------------------------------------------------------------------------------------------------------
# What TRL is told


def trainer_kwargs(params: Params) -> dict[str, Any]:
    """Of GRPOConfig, beside `use_vllm`; nothing without it."""
    if not params.grpo.use_vllm:
        return {}
    return {f"vllm_{name}": getattr(params.launch.vllm, name) for name in TRLS}


def reseed(params: Params, process_index: int) -> None:
    """Give the sampler of `colocate` the seed of params; call it once the trainer is built.

    TRL seeds the engine with the number of the process, and the engine, which is in this process, with it everything
    else here. Processes that share one copy of the model have to draw alike.
    """
    if params.grpo.use_vllm and params.launch.vllm.mode == "colocate":
        from transformers import set_seed

        set_seed(params.seed + process_index // params.launch.vllm.tensor_parallel_size)


# ---------------------------------------------------------------------------------------------------------------------
# Can it work here?


def require_rollouts(params: Params) -> None:
    """Raises: InputError if grpo is to generate with vLLM and this environment or machine cannot."""
    vllm = params.launch.vllm
    if not params.grpo.use_vllm:
        return
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "params.yaml: grpo.use_vllm",
            got=f"true, and no package vllm beside {sys.executable}",
            wanted="vLLM in the environment that trains, also with a server: TRL sends the weights through it",
            do="run posttrain from .venv-vllm (docs/vllm.md), or set it to false",
        )
    require_gpu("grpo.use_vllm", params.launch.device)
    if vllm.mode == "colocate":
        require_whole_groups(vllm.tensor_parallel_size, layout(params.launch).processes)
    if vllm.mode == "server" and vllm.server_base_url is None:
        require_gpus_apart(vllm, os.environ.get("CUDA_VISIBLE_DEVICES"))


def require_whole_groups(tensor_parallel_size: int, processes: int) -> None:
    """Raises: InputError unless every training process is in a group that shares a copy of the model."""
    if processes % tensor_parallel_size:
        raise InputError(
            "params.yaml: launch.vllm.tensor_parallel_size",
            got=f"{tensor_parallel_size}, and {processes} training process(es)",
            wanted="a divisor of launch.processes with mode colocate",
            do="change one of them",
        )


def require_completions(params: Params) -> None:
    """Raises: InputError if evaluate is to generate with vLLM and this machine cannot."""
    if params.evaluate.use_vllm:
        if params.launch.vllm.gpus:
            require_gpu("evaluate.use_vllm", "auto")
        interpreter(params.launch.vllm)


def require_gpu(key: str, device: str) -> None:
    if device == "cpu" or not any(Path(path).exists() for path in GPU_DEVICES):
        raise InputError(
            f"params.yaml: {key}",
            got="true, and launch.device cpu" if device == "cpu" else "true, and no GPU on this machine",
            wanted="a GPU for vLLM",
            do=f"set {key} to false, and transformers generates",
        )


def require_gpus_apart(vllm: VLLM, visible: str | None) -> None:
    """Raises: InputError unless the GPUs of the server are none of those that training sees."""
    training = None if visible is None else {name.strip() for name in visible.split(",") if name.strip()}
    shared = None if training is None else sorted(training & {str(gpu) for gpu in vllm.gpus})
    numbers = training is not None and all(name.isdecimal() for name in training)
    if vllm.gpus and numbers and not shared and training:
        return
    seen = "is not set, so training sees every GPU" if visible is None else f"{visible!r} is what training sees"
    raise InputError(
        "params.yaml: launch.vllm.gpus",
        got=f"{vllm.gpus}, and CUDA_VISIBLE_DEVICES {seen}",
        wanted="GPUs for the server, and others, by number, for training",
        do="name training's, such as `CUDA_VISIBLE_DEVICES=1,2,3 dvc repro` beside `gpus: [0]`",
    )


def interpreter(vllm: VLLM) -> str:
    """Of the server's environment.

    Raises: InputError if there is none.
    """
    python = Path(vllm.python or sys.executable)
    if not os.access(python, os.X_OK):
        raise InputError(
            "params.yaml: launch.vllm.python",
            got=f"{python}: {'a file that cannot be run' if python.is_file() else 'no such file'}",
            wanted="the Python of an environment with vLLM",
            do="run `make vllm`, which makes .venv-vllm, or name another one",
        )
    return str(python.absolute())


def require_free_port(key: str, host: str, port: int) -> None:
    """Raises: InputError if something listens there: a server would fail late, or not be the one that answers."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"params.yaml: launch.vllm.{key}",
                got=f"{host}:{port}: {error.strerror}",
                wanted="an address of this machine where nothing listens",
                do="stop what uses it, or take another one",
            ) from None


# ---------------------------------------------------------------------------------------------------------------------
# The server


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
        "model-impl": params.grpo.trl.get("vllm_model_impl", "vllm"),
        "generation-config": "vllm",  # or generation_config.json of the model would fill in what a request leaves out
    }
    named = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    named += ["--trust-remote-code"] if params.model.trust_remote_code else []
    named += WEIGHT_SYNC if takes_weights else []
    return [interpreter(vllm), "-m", "vllm.entrypoints.cli.main", "serve", str(model), *named]


def environment(vllm: VLLM, takes_weights: bool) -> dict[str, str]:
    more = {"VLLM_SERVER_DEV_MODE": "1"} if takes_weights else {}  # the endpoints that do are for development
    return clean_environment(
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
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
    if (
        not params.grpo.use_vllm
        or vllm.mode == "colocate"
        or SERVER in os.environ
        or os.environ.get("RANK", "0") != "0"
    ):
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
    """The end of a log, for a message."""
    if log is None:
        return ""
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:])
    return f"; its log is {log}; it ends:\n{tail}"
