"""Memory and time of sft and grpo on this machine, by the formulas of `posttrain plan`: no trial run.

The machine's speed is measured in half a second; on a CPU with numpy, whose products are as fast as torch's.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from posttrain.commands.check.rules import Finding
from posttrain.commands.check.speed import numpy_tflops, torch_tflops
from posttrain.commands.check.workspace import Workspace
from posttrain.commands.plan.machine import DDP, GIB, ZERO2, ZERO3, Machine
from posttrain.commands.plan.model import QKV_BIAS, from_config
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.table import duration
from posttrain.commands.plan.work import Work, grpo_work, sft_work
from posttrain.launch.layout import Layout, cores, layout
from posttrain.params.schema import Params
from posttrain.training.batches import batch_plan

STRATEGIES = {"single": DDP, "ddp": DDP, "zero2": ZERO2, "zero3": ZERO3, "fsdp": ZERO3}

PROCESS_GIB = 0.7
"""Memory of Python, torch and the libraries before any weight."""
START_S = 12
"""Seconds of a stage besides its steps: imports, reading the data, samples, saving."""
PASS_S, LAYER_S = 0.002, 0.001
"""Seconds of Python in a forward pass of transformers, and in each of its layers."""
SLOW = 0.8
"""Share of float32's speed below which bfloat16 is of no use."""
UTILISATION = 0.45
"""Share of the measured speed that training reaches on a CPU; fits the embedded recipe and SmolLM2-135M."""


def check_resources(stage: Literal["sft", "grpo"], workspace: Workspace) -> list[Finding]:
    """The stage's need against what is free. Silent if processes cannot share the batch: that is a fault of its own."""
    params, name = workspace.params, f"memory and time of {stage}"
    model = from_config(workspace.config(stage), params.model.name_or_path)
    if model is None:
        return [Finding("later", name, "sft", "cannot be checked before `posttrain sft`")]
    found, work = layout(params.launch), stage_work(stage, workspace)
    if work.sequences % found.processes:
        return []
    machine, free_gib, device = measured(found, params.model.dtype)
    strategy = replace(STRATEGIES[found.strategy], adapters=work.adapters)
    micro_batch = batch_plan(work.sequences, params.launch.micro_batch_size, found.processes).per_device
    plan = Plan(model, work, machine, strategy, params.launch.activation_checkpointing, micro_batch)
    usual = replace(plan, work=usual_work(stage, workspace, work))
    if shares_prompts(workspace.config(stage), params, found):
        plan, usual = sharing_prompts(plan), sharing_prompts(usual)
    return [memory_and_time(name, plan, usual, free_gib, device), *slow_bfloat16(stage, params, found)]


def slow_bfloat16(stage: Literal["sft", "grpo"], params: Params, found: Layout) -> list[Finding]:
    """Of a CPU that has to imitate bfloat16, where the stage asks for it; silent elsewhere."""
    keys = {"launch.mixed_precision": found.mixed_precision, "model.dtype": params.model.dtype}
    if stage == "grpo":
        keys["grpo.generation_dtype"] = params.grpo.generation_dtype
    asked = [key for key, value in keys.items() if value in ("bf16", "bfloat16")]
    if found.device != "cpu" or not asked:
        return []
    threads = found.threads or cores()
    own, plain = torch_tflops("cpu", "bfloat16", threads), numpy_tflops(threads)
    name, saw = f"bfloat16 of {stage}", f"{own / plain:.2g} x the speed of float32 on this CPU"
    if own > SLOW * plain:
        return [Finding("ok", name, ", ".join(asked), saw)]
    why = "It has no instructions for it (avx512_bf16 or amx_bf16), so the run takes many times as long."
    return [Finding("warn", name, ", ".join(asked), saw, why, "Set it to null, model.dtype to float32.")]


def memory_and_time(name: str, plan: Plan, usual: Plan, free_gib: float, device: str) -> Finding:
    """Memory by `plan`, whose sequences are the longest, and time by the usual ones."""
    need_gib, seconds, vllm = plan.total / GIB, START_S + usual.work.max_steps * usual.step_s, plan.work.vllm != "no"
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


def stage_work(stage: Literal["sft", "grpo"], workspace: Workspace) -> Work:
    """A step of the stage; of GRPO with the longest prompt, as far as there are any to count."""
    params = workspace.params
    if stage == "sft":
        return replace(sft_work(params), precision=precision(params))
    known = workspace.train and workspace.tokenizer("grpo")
    longest = max(workspace.prompt_lengths("grpo"), default=0) if known else 0
    return replace(grpo_work({}, params), precision=precision(params), prompt_length=longest)


def usual_work(stage: Literal["sft", "grpo"], workspace: Workspace, work: Work) -> Work:
    """The same step with sequences of the mean length of the traces, where there are any to count; of GRPO with
    completions as long as the traces."""
    if not (workspace.sample and workspace.tokenizer(stage)):
        return work
    lengths, limit = workspace.trace_lengths(stage), work.max_completion_length
    if stage == "sft":
        return replace(work, max_completion_length=round(mean(min(whole, limit) for whole, _ in lengths)))
    return replace(
        work,
        prompt_length=round(mean(whole - trace for whole, trace in lengths)),
        max_completion_length=round(mean(min(trace, limit) for _, trace in lengths)),
    )


def shares_prompts(config: Mapping[str, Any], params: Params, found: Layout) -> bool:
    """Whether GRPO computes a prompt once for its completions of a pass: what posttrain/grpo/shared_prompt.py asks of a
    loaded model, by what is known before. False for kinds of models that `plan` does not know."""
    dropout = config.get("attention_dropout") or (params.model.lora and params.model.lora.dropout)
    held_back = found.strategy == "fsdp" or params.launch.activation_checkpointing or dropout
    return config.get("model_type") in QKV_BIAS and not held_back


def sharing_prompts(plan: Plan) -> Plan:
    """The same where a prompt is computed once for its completions of a pass."""
    together = min(plan.work.num_generations, plan.micro_batch)
    return replace(plan, work=replace(plan.work, prompt_length=math.ceil(plan.work.prompt_length / together)))


def precision(params: Params) -> str:
    """DeepSpeed and FSDP keep float32 weights beside shorter ones; without them all have the dtype of the weights."""
    sharded = layout(params.launch).strategy in ("zero2", "zero3", "fsdp")
    return "mixed" if sharded and params.model.dtype == "bfloat16" else params.model.dtype


def measured(found: Layout, dtype: str) -> tuple[Machine, float, str]:
    """This machine, the GiB that a process finds free, and the name of the device."""
    dtype = "bfloat16" if found.mixed_precision else dtype
    threads = found.threads or cores()
    if found.device == "cpu" and dtype == "float32":
        tflops = numpy_tflops(threads)
    else:
        tflops = torch_tflops(found.device, dtype, threads)
    machine = Machine(found.processes, 0, tflops=tflops, pass_s=PASS_S, layer_s=LAYER_S)
    if found.device == "cuda":
        import torch

        free, memory = torch.cuda.mem_get_info()
        return replace(machine, memory_gib=memory / GIB), free / GIB, torch.cuda.get_device_name()
    memory_gib, free_gib = (system_memory_gib(key) / found.local_processes for key in ("MemTotal", "MemAvailable"))
    # No bandwidth is measured: on the few cores that were tried, what is computed takes longer than what is read.
    machine = replace(machine, memory_gib=memory_gib, reserve_gib=PROCESS_GIB, bandwidth=math.inf, link=math.inf)
    name = f"{threads} CPU thread{'s'[: threads != 1]}"
    return replace(machine, utilisation=UTILISATION, triton=False), free_gib, name


def system_memory_gib(key: str) -> float:
    """Infinite where the system does not say."""
    path = Path("/proc/meminfo")
    lines = path.read_text(encoding="ascii").splitlines() if path.is_file() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith(f"{key}:")]
    return kib[0] / 2**20 if kib else math.inf
