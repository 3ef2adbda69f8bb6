"""From `launch` in params.yaml to the processes that train: how many, how they share the work, what starts them.

Reads   the `launch` section; how many GPUs torch sees
Writes  .posttrain/launch/<stage>.json, a config of accelerate's
Run     posttrain launch --show

sft and grpo run in one process, or in several that a launcher starts and supervisor.py watches. The
number of processes is no science: batches are those of params.yaml on every layout.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import InputError
from posttrain.launch.environment import is_worker
from posttrain.params.launch import Launch

SHARED = ("sft", "grpo")
"""Stages that several processes share."""


SOCKET = "POSTTRAIN_SUPERVISOR"
"""Environment variable: where a worker reports to."""


Strategy = Literal["single", "ddp", "zero2", "zero3", "fsdp"]


CPU_PROCESSES = 2
"""What `auto` starts on a CPU with cores for their threads: each holds the model, and most batches divide by 2."""


DEEPSPEED = {"zero2": 2, "zero3": 3}


NVIDIA = Path("/dev/nvidiactl")
"""The device that NVIDIA's driver makes."""


@dataclass(frozen=True)
class Layout:
    """What runs, with nothing left open."""

    strategy: Strategy
    device: Literal["cpu", "cuda"]
    processes: int
    """On all machines together."""
    machines: int
    machine_rank: int
    main_address: str
    mixed_precision: Literal["bf16"] | None
    offload: Literal["none", "optimizer", "all"]
    threads: int
    """OpenMP threads of one process; 0 leaves the number to torch."""

    @property
    def local_processes(self) -> int:
        return self.processes // self.machines

    def __str__(self) -> str:
        several = f" on {self.machines} machines" if self.machines > 1 else ""
        return f"{self.strategy}, {self.processes} process{'es' * (self.processes > 1)}{several}, {self.device}"


def layout(launch: Launch) -> Layout:
    """What `launch` comes to on this machine.

    Raises: InputError if its keys do not fit each other or the machine.
    """
    gpus = 0 if launch.device == "cpu" or launch.strategy == "cpu" else visible_gpus()
    device: Literal["cpu", "cuda"] = "cuda" if launch.device == "cuda" or gpus else "cpu"
    processes = count(launch, gpus)
    check_machines(launch, processes)
    if device == "cuda" and processes > gpus * launch.machines:
        raise InputError(
            "params.yaml: launch.processes",
            got=f"{processes} on {launch.machines} machine(s), and {gpus} GPU(s) here",
            wanted="a GPU for each process",
            do="lower launch.processes, or set launch.device to cpu",
        )
    strategy = chosen(launch, processes, device)
    threads = launch.threads or (0 if processes == 1 else max(1, cores() * launch.machines // processes))
    return Layout(
        strategy=strategy,
        device=device,
        processes=processes,
        machines=launch.machines,
        machine_rank=launch.machine_rank,
        main_address=launch.main_address,
        mixed_precision=launch.mixed_precision,
        offload=launch.offload,
        threads=threads,
    )


def visible_gpus() -> int:
    """GPUs that torch may use. torch is imported only where there can be one."""
    if not NVIDIA.exists():
        return 0
    import torch

    return torch.cuda.device_count()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hidden_gpus(launch: Launch) -> str | None:
    """Why the CPU trains on a machine with an NVIDIA GPU; None if nothing is odd."""
    if not NVIDIA.exists() or launch.strategy == "cpu":
        return None
    if launch.device == "cpu":  # what ships, and what a person with a GPU has to change
        return "an NVIDIA GPU is here, and launch.device is cpu: trains on the CPU"
    if visible_gpus():
        return None
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f"CUDA_VISIBLE_DEVICES={shown!r}" if shown is not None else f"torch {torch.__version__}, or the driver"
    return f"an NVIDIA GPU is here, and torch sees none ({why}): trains on the CPU"


def count(launch: Launch, gpus: int) -> int:
    """Processes on all machines; `auto` is one for each GPU, and without GPUs two if their threads have cores."""
    if launch.processes != "auto":
        return launch.processes
    if launch.strategy in ("cpu", "single"):
        return 1
    shared = not gpus and launch.strategy in ("auto", "ddp")
    fit = cores() // (launch.threads or cores())
    return (max(1, min(CPU_PROCESSES, fit)) if shared else max(1, gpus)) * launch.machines


def chosen(launch: Launch, processes: int, device: str) -> Strategy:
    """The strategy asked for, or the one that `auto` stands for.

    Raises: InputError if it does not go with the processes, the device or the precision.
    """
    several: Strategy = "zero2" if device == "cuda" else "ddp"
    strategy = launch.strategy
    if strategy == "auto":
        strategy = "single" if processes == 1 else several
    if strategy == "cpu":
        strategy = "single"
    asked, alone = f"{launch.strategy}, processes {processes}", strategy == "single"
    if alone != (processes == 1) and not (processes == 1 and strategy in DEEPSPEED):
        wanted = "one process" if alone else "2 processes or more"
        raise wrong("strategy", f"{asked}", wanted, "change launch.processes, or set launch.strategy to auto")
    if strategy == "fsdp" and device == "cpu":  # accelerate would run DDP and say nothing
        raise wrong("strategy", "fsdp on the CPU", "GPUs for fsdp", "use ddp, zero2 or zero3")
    if launch.offload != "none" and strategy not in DEEPSPEED:
        raise wrong("offload", f"{launch.offload} with strategy {strategy}", "zero2 or zero3 for it", "set it to none")
    if launch.offload == "all" and strategy != "zero3":
        raise wrong("offload", f"all with strategy {strategy}", "zero3 for weights", "use optimizer, or zero3")
    return strategy


def wrong(key: str, got: str, wanted: str, do: str) -> InputError:
    return InputError(f"params.yaml: launch.{key}", got=got, wanted=wanted, do=do)


def check_machines(launch: Launch, processes: int) -> None:
    if launch.machine_rank >= launch.machines:
        raise wrong(
            "machine_rank",
            f"{launch.machine_rank} of {launch.machines} machine(s)",
            f"0 to {launch.machines - 1}",
            "set POSTTRAIN_LAUNCH_MACHINE_RANK on each machine",
        )
    if processes % launch.machines:
        raise wrong(
            "processes", f"{processes} on {launch.machines} machines", "as many on each", "use a multiple of machines"
        )


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if is_worker() else 1


def is_main() -> bool:
    """Whether this process is the one that publishes."""
    return not is_worker() or os.environ["RANK"] == "0"


def require(accelerator: Any, layout: Layout) -> None:
    """Refuse a run that is not what was asked for. Launchers drop what they do not understand and train all the same.

    Raises: InputError
    """
    plugin = accelerator.state.deepspeed_plugin
    found = (str(accelerator.distributed_type).rpartition(".")[2], accelerator.num_processes)
    stage = plugin.zero_stage if plugin is not None else 0
    kinds = {"single": ("NO",), "ddp": ("MULTI_CPU", "MULTI_GPU"), "fsdp": ("FSDP",)}
    kind_holds = found[0] in kinds.get(layout.strategy, ("DEEPSPEED",)) and stage == DEEPSPEED.get(layout.strategy, 0)
    precision = layout.mixed_precision or "no"
    if not kind_holds or found[1] != layout.processes or accelerator.mixed_precision != precision:
        raise InputError(
            "launch",
            got=f"{found[0]}{f' stage {stage}' * bool(stage)}, {found[1]} process(es), mixed precision "
            f"{accelerator.mixed_precision}",
            wanted=f"{layout}, mixed precision {precision}",
            do="start the stage by its own command, and look at `posttrain launch --show`",
        )
