"""`posttrain plan`: memory, time and price of a GRPO run on GPUs before any is rented. Arithmetic alone, no torch.

Reads   params.yaml if it is there (batch, lengths, KL, adapters, steps), or flags in its place; a model's config.json
Run     posttrain plan --model-size 7e9 --gpus 8 --gpu-memory-gib 80
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.commands.plan.machine import DDP, GIB, LORA, ZERO2, ZERO3, Machine
from posttrain.commands.plan.model import Model, of_file, of_size
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.table import assumptions, closing_line, table
from posttrain.commands.plan.work import GPU_MEMORY_UTILIZATION, Work, grpo_work
from posttrain.errors import InputError
from posttrain.params.file import load_params
from posttrain.params.schema import Params

SERVER_GPUS = (1, 2, 4, 8)
"""GPUs that share a server's copy of the model, all in one machine."""
LARGEST_GIB = 2**14
"""Memory of a GPU up to which one that would do is looked for."""


def run(flags: Mapping[str, Any], params_path: Path) -> None:
    """Print the table, the assumptions and the recommendation.

    Raises: InputError if nothing fits, after the table, or if the batch cannot be divided.
    """
    params, source = asked_for(params_path)
    model = of_file(Path(flags["config"])) if flags.get("config") else of_size(flags["model_size"])
    work, machine = grpo_work(flags, params), machine_of(flags)
    require_division(work.sequences, machine.gpus)
    require_vllm_memory(Plan(model, work, machine, DDP))
    found = plans(model, work, machine)
    best = recommended(found, work)
    print(table(found, best))
    print()
    for line in assumptions(found[0]):
        print(line)
    print(f"lengths and batch: flags, then {source}")
    require_fit(found)
    if best is not None:
        print(closing_line(best, work))


def asked_for(path: Path) -> tuple[Params | None, str]:
    """The params that say how long and how many completions are, and where that is from.

    A model from scratch is a toy: its lengths say nothing of another's.
    """
    if not path.is_file():
        return None, "defaults of plan"
    params = load_params(path)
    if params.model.name_or_path == "scratch":
        return None, f"defaults of plan; {path} is of a model from scratch, too small to plan by"
    return params, str(path)


def machine_of(flags: Mapping[str, Any]) -> Machine:
    """GPUs as flags describe them, an A100's figures where there is no flag."""
    units = {"tflops": 1.0, "utilisation": 1.0, "bandwidth": 1e9, "link": 1e9, "efficiency": 1.0, "reserve_gib": 1.0}
    given = {name: flags[name] * unit for name, unit in units.items() if flags.get(name) is not None}
    return Machine(flags["gpus"], flags["gpu_memory_gib"], **given)


def plans(model: Model, work: Work, machine: Machine) -> list[Plan]:
    """Every strategy with and without a reference and recomputing, each with the largest micro-batch that fits."""
    return [
        with_largest_micro_batch(Plan(model, replace(work, reference=reference), machine, strategy, recompute))
        for strategy in ([DDP, ZERO2, ZERO3, LORA] if machine.gpus > 1 else [replace(DDP, name="single"), LORA])
        for reference in (True, False)
        for recompute in (False, True)
    ]


def with_largest_micro_batch(plan: Plan) -> Plan:
    """The largest that divides a GPU's share and fits; 1 where none fits."""
    share = plan.own_sequences
    sizes = (replace(plan, micro_batch=size) for size in range(share, 0, -1) if share % size == 0)
    return next((sized for sized in sizes if sized.fits), plan)


def recommended(found: list[Plan], work: Work) -> Plan | None:
    """The fastest that fits and trains what is wanted: all weights or adapters, with the reference or without. If none
    does, adapters, and then all weights without a reference."""
    for wish in ((work.adapters, work.reference), (True, work.reference), (False, False)):
        fitting = [plan for plan in found if plan.fits and (plan.strategy.adapters, plan.work.reference) == wish]
        if fitting:
            return min(fitting, key=lambda plan: (plan.step_s, plan.total))
    return None


def require_division(sequences: int, gpus: int) -> None:
    """Raises: InputError naming the nearest numbers of GPUs that divide the step."""
    if sequences % gpus:
        known = [count for count in range(1, sequences + 1) if sequences % count == 0]
        below, above = [count for count in known if count < gpus][-1], [count for count in known if count > gpus][:1]
        raise InputError(
            "prompts_per_step x num_generations",
            got=f"{sequences} completions a step on {gpus} GPUs",
            wanted="the same number on every GPU",
            do=f"--gpus {' or '.join(map(str, (below, *above)))}, or another --prompts-per-step",
        )


def require_vllm_memory(plan: Plan) -> None:
    """Raises: InputError if vLLM cannot hold the weights and one completion, or its groups do not divide the GPUs."""
    work, machine = plan.work, plan.machine
    if work.vllm == "colocate" and machine.gpus % work.tensor_parallel_size:
        raise InputError(
            "--tensor-parallel-size",
            got=f"groups of {work.tensor_parallel_size} of {machine.gpus} GPUs",
            wanted="a number that divides those that train",
            do="change it, or --gpus",
        )
    if work.vllm != "no" and not plan.kv_cache_completions:
        group = work.tensor_parallel_size * GIB
        weights, cache = plan.model_bytes / group, plan.token_cache * work.length / group
        raise InputError(
            "--gpu-memory-utilization",
            got=f"{work.gpu_memory_utilization:g} x {machine.memory_gib:g} GiB of a GPU for vLLM",
            wanted=f"{weights:.1f} GiB for the weights and {cache:.2f} for the KV cache of one completion",
            do="raise it, or --tensor-parallel-size",
        )


def require_fit(found: list[Plan]) -> None:
    """Raises: InputError saying what would fit."""
    if any(plan.fits for plan in found):
        return
    least = min(found, key=lambda plan: plan.total)
    raise InputError(
        f"{least.machine.gpus} x {least.machine.memory_gib:g} GiB",
        got=f"{least.total / GIB:.1f} GiB a GPU at the least ({least.strategy.name})",
        wanted=f"a strategy that fits into {least.machine.memory_gib:g} GiB",
        do=", or ".join(remedies(least)) + "; shorter completions, fewer at a time, or a smaller model need less",
    )


def remedies(least: Plan) -> Iterator[str]:
    """What would fit: GPUs of another size, more of them, or a server of vLLM's beside them, where more alone do not
    help because each has to hold the whole model to generate with it."""
    machine = least.machine
    sizes = range(math.ceil(machine.memory_gib), LARGEST_GIB)  # reserve and vLLM's share grow with it
    enough = bisect_left(sizes, True, key=lambda gib: fits(least, replace(machine, memory_gib=gib), least.work))
    if enough < len(sizes):
        reference = "with" if least.work.reference else "without"
        yield f"--gpu-memory-gib {sizes[enough]} ({least.strategy.name}, {reference} a reference)"
    if least.work.vllm_beside_training:
        yield "a smaller --gpu-memory-utilization, or --enable-sleep-mode"
    if gpus := more_gpus(least, least.work):
        yield f"--gpus {gpus}"
    elif least.work.vllm == "no":
        for shared in (size for size in SERVER_GPUS if size >= least.work.tensor_parallel_size):
            served = replace(
                least.work,
                vllm="server",
                tensor_parallel_size=shared,
                gpu_memory_utilization=GPU_MEMORY_UTILIZATION["server"],
            )
            if gpus := more_gpus(least, served):
                yield f"--vllm server --tensor-parallel-size {shared} --gpus {gpus}"
                return


def more_gpus(least: Plan, work: Work) -> int | None:
    """The smallest number of GPUs, not fewer than there are, that do the work and divide its completions."""
    counts = (count for count in range(least.machine.gpus, work.sequences + 1) if work.sequences % count == 0)
    return next((count for count in counts if fits(least, replace(least.machine, gpus=count), work)), None)


def fits(least: Plan, machine: Machine, work: Work) -> bool:
    """Whether a machine does the work, and a server its part of it."""
    served = work.vllm != "server" or bool(Plan(least.model, work, machine, DDP).kv_cache_completions)
    return served and any(plan.fits for plan in plans(least.model, work, machine))
