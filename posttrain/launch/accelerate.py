"""What starts the workers: the command, their environment, and accelerate's config file where it is accelerate.

Writes  .posttrain/launch/<stage>.json
Run     posttrain launch --show
"""

import json
import sys
from pathlib import Path
from typing import Any

from posttrain.launch.environment import WORKER
from posttrain.launch.layout import DEEPSPEED, Layout, layout
from posttrain.params.launch import Launch
from posttrain.paths import LAUNCH_CONFIGS


def accelerate_config(layout: Layout) -> dict[str, Any]:
    """The content of a config file for `accelerate launch`, under its names.

    On CPU the launcher is the one for GPUs, and the workers' environment says CPU: accelerate's own MULTI_CPU starts a
    single process without mpirun, and says nothing.
    """
    kind = {"ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(layout.strategy, "DEEPSPEED")
    host, _, port = layout.main_address.rpartition(":")
    several = {"main_process_ip": host.strip("[]"), "main_process_port": int(port), "same_network": True}
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "num_processes": layout.processes,
        "num_machines": layout.machines,
        "machine_rank": layout.machine_rank,
        "rdzv_backend": "static",
        "mixed_precision": layout.mixed_precision or "no",
        "use_cpu": layout.device == "cpu",
        **(several if layout.machines > 1 else {"main_process_port": 0}),
        **({"deepspeed_config": deepspeed_config(layout)} if kind == "DEEPSPEED" else {}),
        **({"fsdp_config": FSDP} if kind == "FSDP" else {}),
    }


def deepspeed_config(layout: Layout) -> dict[str, Any]:
    """Batch, clipping and precision are left out: the trainer fills them in from its own arguments."""
    return {
        "zero_stage": DEEPSPEED[layout.strategy],
        "offload_optimizer_device": "none" if layout.offload == "none" else "cpu",
        "offload_param_device": "cpu" if layout.offload == "all" else "none",
        "zero3_init_flag": layout.strategy == "zero3",
        "zero3_save_16bit_model": layout.strategy == "zero3",
        **({"deepspeed_multinode_launcher": "standard"} if layout.machines > 1 else {}),
    }


FSDP = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_reshard_after_forward": True,
    "fsdp_offload_params": False,
    "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_activation_checkpointing": False,
}


def environment(layout: Layout) -> dict[str, str]:
    """What the workers find in their environment beside ours."""
    found = {WORKER: "1", "OMP_NUM_THREADS": str(layout.threads or 1), "PYTHONUNBUFFERED": "1"}
    if layout.device == "cpu":
        found["DS_ACCELERATOR"] = "cpu"
        if layout.strategy not in DEEPSPEED:  # with it, accelerate would leave DeepSpeed out
            found["ACCELERATE_USE_CPU"] = "true"
    return found


def config_path(stage: str, layout: Layout) -> Path:
    several = f"-{layout.machine_rank}" if layout.machines > 1 else ""
    return LAUNCH_CONFIGS / f"{stage}{several}.json"


def by_itself(layout: Layout) -> bool:
    """Whether posttrain starts the workers without accelerate, whose launcher first imports torch for itself."""
    return layout.strategy == "ddp" and layout.device == "cpu" and layout.machines == 1


def command(stage: str, layout: Layout) -> list[str]:
    """What starts the workers of this machine."""
    if by_itself(layout):
        return [sys.executable, "-m", "posttrain.launch.ranks", stage, str(layout.processes)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*launcher, "--config_file", str(config_path(stage, layout)), "--module", "posttrain.worker", stage]


def write_config(stage: str, layout: Layout) -> None:
    """Accelerate's config, where accelerate starts the workers."""
    if by_itself(layout):
        return
    path = config_path(stage, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(accelerate_config(layout), indent=2) + "\n", encoding="utf-8")


def show(stage: str, launch: Launch) -> None:
    """Print what the stage's command runs: layout, environment, command and accelerate's config."""
    found = layout(launch)
    print(f"launch | {stage}: {found}")
    if found.strategy == "single":
        print(f"launch | runs in the process of `posttrain {stage}`; nothing is launched")
        return
    write_config(stage, found)
    words = [f"{name}={value}" for name, value in environment(found).items()] + command(stage, found)
    print(f"launch | {' '.join(words)}")
    if by_itself(found):
        return
    print(f"launch | {config_path(stage, found)}:")
    print(config_path(stage, found).read_text(encoding="utf-8"), end="")
