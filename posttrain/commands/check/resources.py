"""Memory and time of sft and grpo on this machine, by the formulas of `posttrain plan`: no trial run.

Imports torch only to measure the machine's speed, in a tenth of a second.
"""

import math
import timeit
from dataclasses import replace
from pathlib import Path
from typing import Literal

from posttrain.commands.check.rules import Finding
from posttrain.commands.check.workspace import Workspace
from posttrain.commands.plan.machine import GIB, Machine
from posttrain.commands.plan.model import from_config
from posttrain.commands.plan.plan import DDP, ZERO2, ZERO3, Plan
from posttrain.commands.plan.table import duration
from posttrain.commands.plan.work import Work, grpo_work, sft_work
from posttrain.launch.layout import Layout, layout
from posttrain.params.schema import Params
from posttrain.training.batches import batch_plan

STRATEGIES = {"single": DDP, "ddp": DDP, "zero2": ZERO2, "zero3": ZERO3, "fsdp": ZERO3}

PROCESS_GIB, START_S = 0.7, 12
"""What a process takes before any weight: memory of Python, torch and the libraries, and the time to import them."""
PASS_S, LAYER_S = 0.002, 0.001
"""Python's part of a forward pass of transformers, and of each layer in it."""


def check_resources(stage: Literal["sft", "grpo"], workspace: Workspace) -> list[Finding]:
    """The stage's need against what is free. Silent if processes cannot share the batch: that is a fault of its own."""
    params, name = workspace.params, f"memory and time of {stage}"
    model = from_config(workspace.config(stage), params.model.name_or_path)
    if model is None:
        return [Finding("later", name, "sft", "cannot be checked before `posttrain sft`")]
    found, work = layout(params.launch), asked(stage, workspace)
    if work.sequences % found.processes:
        return []
    machine, free_gib, device = measured(found, params.model.dtype)
    strategy = replace(STRATEGIES[found.strategy], adapters=work.adapters)
    micro_batch = batch_plan(work.sequences, params.launch.micro_batch_size, found.processes).per_device
    plan = Plan(model, work, machine, strategy, params.launch.activation_checkpointing, micro_batch)
    return [memory_and_time(name, plan, free_gib, device)]


def memory_and_time(name: str, plan: Plan, free_gib: float, device: str) -> Finding:
    need_gib, seconds, vllm = plan.total / GIB, START_S + plan.work.max_steps * plan.step_s, plan.work.vllm != "no"
    saw = f"about {need_gib:.1f} of {free_gib:.1f} GiB free on {device}, about {duration(seconds)}"
    if need_gib > free_gib:
        why = "The run would be killed for its memory, or swap."
        do = "Lower it (the result is the same), or use bfloat16 or a smaller model."
        return Finding("warn", name, "launch.micro_batch_size", saw, why, do)
    if vllm and not plan.kv_cache_completions:
        saw = f"{plan.work.gpu_memory_utilization:g} of {plan.machine.memory_gib:.1f} GiB for vLLM"
        why = "That does not hold the weights and the KV cache of one completion."
        return Finding("warn", name, "launch.vllm.gpu_memory_utilization", saw, why, "Raise it, or use more GPUs.")
    return Finding("ok", name, "launch.micro_batch_size", saw)


def asked(stage: Literal["sft", "grpo"], workspace: Workspace) -> Work:
    """A step of the stage; of GRPO with the longest prompt, as far as there are any to count."""
    params = workspace.params
    if stage == "sft":
        return replace(sft_work(params), precision=precision(params))
    known = workspace.train and workspace.tokenizer("grpo")
    longest = max(workspace.prompt_lengths("grpo"), default=0) if known else 0
    return replace(grpo_work({}, params), precision=precision(params), prompt_length=longest)


def precision(params: Params) -> str:
    """DeepSpeed and FSDP keep float32 weights beside shorter ones; without them all have the dtype of the weights."""
    sharded = layout(params.launch).strategy in ("zero2", "zero3", "fsdp")
    return "mixed" if sharded and params.model.dtype == "bfloat16" else params.model.dtype


def measured(found: Layout, dtype: str) -> tuple[Machine, float, str]:
    """This machine, the GiB that a process finds free, and the name of the device."""
    import torch

    if found.threads:
        torch.set_num_threads(found.threads)
    cuda, size = found.device == "cuda", 8192 if found.device == "cuda" else 1024
    kind = getattr(torch, "bfloat16" if found.mixed_precision else dtype)
    matrix = torch.ones(size, size, dtype=kind, device=found.device)

    def product() -> float:
        return float((matrix @ matrix)[0, 0])  # reading a number waits for the device

    product()
    # The fastest of several, because other jobs only ever make it slower.
    tflops = 2 * size**3 / min(timeit.repeat(product, number=1, repeat=8)) / 1e12
    python = Machine(found.processes, 0, tflops=tflops, pass_s=PASS_S, layer_s=LAYER_S)
    if cuda:
        free, memory = torch.cuda.mem_get_info()
        return replace(python, memory_gib=memory / GIB), free / GIB, torch.cuda.get_device_name()
    memory_gib, free_gib = (system_memory_gib(key) / found.local_processes for key in ("MemTotal", "MemAvailable"))
    # Without its bandwidths: operations and Python take longer than what is read, on the few cores that were tried.
    machine = replace(
        python, memory_gib=memory_gib, reserve_gib=PROCESS_GIB, bandwidth=math.inf, link=math.inf, triton=False
    )
    threads = torch.get_num_threads()
    return machine, free_gib, f"{threads} CPU thread{'s'[: threads != 1]}"


def system_memory_gib(key: str) -> float:
    """Infinite where the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith(f"{key}:")]
    return kib[0] / 2**20 if kib else math.inf
