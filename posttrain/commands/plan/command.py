"""`posttrain plan`: memory, time and price of a GRPO run on GPUs before any is rented. Arithmetic alone, no torch.

Reads   params.yaml if it is there (batch, lengths, KL, adapters, steps), or flags in its place; a model's config.json
Run     posttrain plan --model-size 7e9 --gpus 8 --gpu-memory-gib 80
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.commands.plan.lengths import Lengths, counted
from posttrain.commands.plan.machine import DDP, GIB, Machine
from posttrain.commands.plan.model import of_file, of_size
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.remedies import remedies
from posttrain.commands.plan.strategies import plans, recommended
from posttrain.commands.plan.table import assumptions, closing_line, table
from posttrain.commands.plan.work import Work, grpo_work
from posttrain.errors import InputError
from posttrain.params.file import load_params
from posttrain.params.schema import Params


def run(flags: Mapping[str, Any], params_path: Path) -> None:
    """Print the table, the assumptions and the recommendation.

    Raises: InputError if nothing fits, after the table, or if the batch cannot be divided.
    """
    params, source = asked_for(params_path)
    model = of_file(Path(flags["config"])) if flags.get("config") else of_size(flags["model_size"])
    work, machine, lengths = grpo_work(flags, params), machine_of(flags), lengths_of(flags, params)
    if isinstance(lengths, Lengths):
        work = replace(work, prompt_length=lengths.longest)
    require_division(work.sequences, machine.gpus)
    require_vllm_memory(Plan(model, work, machine, DDP))
    found = plans(model, work, machine)
    best = recommended(found, work)
    print(table(found, best))
    print()
    for line in assumptions(found[0]):
        print(line)
    print(f"lengths and batch: flags, then {source}")
    if lengths is not None:
        print(f"prompts: {lengths}")
    require_fit(found, work)
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


def lengths_of(flags: Mapping[str, Any], params: Params | None) -> Lengths | str | None:
    """How long prompts are in data/prepared, or why that is not known; None where nobody needs to know."""
    if params is None or flags.get("prompt_length") is not None:
        return None
    return counted(params)


def machine_of(flags: Mapping[str, Any]) -> Machine:
    """GPUs as flags describe them, an A100's figures where there is no flag."""
    units = {"tflops": 1.0, "utilisation": 1.0, "bandwidth": 1e9, "link": 1e9, "efficiency": 1.0, "reserve_gib": 1.0}
    given = {name: flags[name] * unit for name, unit in units.items() if flags.get(name) is not None}
    return Machine(flags["gpus"], flags["gpu_memory_gib"], **given)


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


def require_fit(found: list[Plan], work: Work) -> None:
    """Raises: InputError saying what would fit."""
    if any(plan.fits for plan in found):
        return
    least = min(found, key=lambda plan: plan.total)
    raise InputError(
        f"{least.machine.gpus} x {least.machine.memory_gib:g} GiB",
        got=f"{least.total / GIB:.1f} GiB a GPU at the least ({least.strategy.name})",
        wanted=f"a strategy that fits into {least.machine.memory_gib:g} GiB",
        do="\n          ".join(
            [*remedies(replace(least, work=work)), "or shorter completions, fewer at a time, a smaller model"]
        ),
    )
