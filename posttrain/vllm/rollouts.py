"""vLLM: what TRL is told of it, and whether it can work here. The server is in posttrain/vllm/server.py.

Reads   `launch.vllm`, `grpo.use_vllm`, `evaluate.use_vllm`, `seed`; CUDA_VISIBLE_DEVICES
"""

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.launch.layout import layout
from posttrain.params.launch import VLLM
from posttrain.params.schema import Params

TRLS = (
    *("mode", "tensor_parallel_size", "gpu_memory_utilization", "max_model_length", "enable_sleep_mode"),
    *("server_base_url", "server_host", "server_port", "server_timeout", "group_port"),
)
"""Keys of `launch.vllm` that GRPOConfig takes as `vllm_<key>`."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


# ---------------------------------------------------------------------------------------------------------------------
# What TRL is told


def trainer_kwargs(params: Params) -> dict[str, Any]:
    """Options of GRPOConfig beside `use_vllm`; none without it."""
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
    if vllm.starts_server:
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
    """The Python of the server's environment.

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
