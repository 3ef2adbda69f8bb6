"""Memory, time and price of a GRPO run on GPUs before any is rented: arithmetic alone, no torch.

Reads   params.yaml if it is there (batch, lengths, KL, adapters, steps), or flags in its place; a model's config.json
Run     posttrain plan --model-size 7e9 --gpus 8 --gpu-memory-gib 80

Bytes are of one GPU. The sources are ZeRO (arXiv:1910.02054), activation recomputation (arXiv:2205.05198), the
estimators of DeepSpeed and the code of TRL 1.16; docs/plan.md says what is left out.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.commands.check.estimate import GIB, duration
from posttrain.commands.plan.memory import room
from posttrain.commands.plan.model import from_config, of_size
from posttrain.commands.plan.plan import Plan, Row
from posttrain.commands.plan.request import PRECISIONS, Cluster, Engine, Work, default_reserve_gib
from posttrain.errors import InputError
from posttrain.params.file import load_params
from posttrain.params.schema import Params


def recommended(rows: list[Row], work: Work) -> Row | None:
    """The fastest that fits and trains what is wanted: all weights or adapters, with the reference or without. If none
    does, adapters, and then all weights without a reference."""
    wishes = [(work.adapters, work.reference), (True, work.reference), (False, False)]
    for adapters, reference in wishes:
        fitting = [row for row in rows if row.fits and (row.strategy.adapters, row.reference) == (adapters, reference)]
        if fitting:
            return min(fitting, key=lambda row: (row.seconds, row.memory.total))
    return None


COLUMNS = {
    "weights": "weights",
    "grads": "gradients",
    "optim.": "optimizer",
    "ref.": "reference",
    "buffers": "buffers",
    "activ.": "activations",
    "logits": "logits",
    "gener.": "generation",
    "update": "update",
    "total": "total",
}
"""Heading, and field of Memory."""


HEADER = ["strategy", "reference", "recompute", *COLUMNS, "fits", "micro-batch", "s/step", "GPU-h"]


def table(plan: Plan, rows: list[Row], best: Row | None) -> str:
    cells = [HEADER, *(row_cells(plan, row, best) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def row_cells(plan: Plan, row: Row, best: Row | None) -> list[str]:
    flags = ["yes" if flag else "no" for flag in (row.reference, row.checkpointing)]
    gib = [f"{getattr(row.memory, name) / GIB:.1f}" for name in COLUMNS.values()]
    price = [str(row.micro), f"{row.seconds:.3g}", f"{plan.hours(row):.3g}"] if row.fits else ["-"] * 3
    return [row.strategy.name, *flags, *gib, "best" if row is best else "yes" if row.fits else "no", *price]


def assumptions(plan: Plan) -> list[str]:
    model, work, cluster = plan.model, plan.work, plan.cluster
    kind = PRECISIONS[plan.precision]
    return [
        f"model: {model.name}: {model.parameters:,} parameters, {model.shape.layers} layers of {model.shape.hidden}, "
        f"{model.shape.key_values} wide keys, vocabulary {model.shape.vocab}",
        f"step: {work.sequences} completions of {work.completion} tokens after prompts of {work.prompt}, used "
        f"{work.iterations} x; {work.steps} steps; adapters of rank {work.rank} on every linear layer",
        f"memory: GiB of one GPU; {cluster.reserve_gib:.1f} of {cluster.memory_gib:g} are reserved; {plan.precision}: "
        f"{kind.weights} + {kind.gradients} + {kind.optimizer} bytes a parameter (weights, gradients, Adam)",
        generation_text(plan, kind.weights),
        f"time: {cluster.tflops:g} TFLOP/s x {cluster.utilisation:g}; {cluster.bandwidth / 1e9:g} GB/s of memory and "
        f"{cluster.link / 1e9:g} GB/s between GPUs, both x {cluster.efficiency:g}; every completion has full length; "
        "rewards, loading and checkpoints are not counted",
    ]


def generation_text(plan: Plan, element: int) -> str:
    """How the columns make the total, and what generates."""
    model, work, cluster, engine = plan.model, plan.work, plan.cluster, plan.engine
    beside = engine is not None and engine.beside_training
    largest = "activ. + logits and update, and gener. beside it" if beside else "activ. + logits, gener. and update"
    total = f"total: weights to buffers and the reserve, and the largest of {largest}"
    if engine is None:
        cache = element * model.key_value_bytes * work.length * work.sequences // cluster.gpus
        return f"{total}; gener. has {cache / GIB:.1f} of KV cache"
    if engine.server:
        where = f"vLLM on {engine.tensor_parallel} more GPU{'s'[: engine.tensor_parallel != 1]} generates"
    else:
        where = f"gener. is vLLM's on groups of {engine.tensor_parallel}"
    at_once = room(model, engine, work, cluster, element)
    return f"{total}; {where}, {engine.share:g} of a GPU: KV cache for {at_once} completions at a time"


def enough(plan: Plan) -> str:
    """What would fit: GPUs of this size, or this many of another size."""
    best = min(plan.rows(), key=lambda row: row.memory.total)
    reference = "with" if best.reference else "without"

    def fits(gib: int) -> bool:
        larger = replace(plan.cluster, memory_gib=gib, reserve_gib=default_reserve_gib(gib))
        return any(row.fits for row in replace(plan, cluster=larger).rows())

    sizes = range(math.ceil(plan.cluster.memory_gib), LARGEST_GIB)
    needs = sizes[bisect_left(sizes, True, hi=len(sizes) - 1, key=fits)]  # reserve and vLLM's share grow with it
    said = [f"--gpu-memory-gib {needs} ({best.strategy.name}, {reference} a reference)"] if fits(needs) else []
    if best.memory.generation_stays:
        said.append("a smaller --gpu-memory-utilization, or --enable-sleep-mode")
    sequences = plan.work.sequences
    for gpus in (count for count in range(plan.cluster.gpus + 1, sequences + 1) if sequences % count == 0):
        if any(row.fits for row in replace(plan, cluster=replace(plan.cluster, gpus=gpus)).rows()):
            said.append(f"--gpus {gpus}")
            break
    return ", or ".join(said) + "; shorter completions, fewer at a time, or a smaller model need less"


LARGEST_GIB = 2**14


def require_fit(plan: Plan, rows: list[Row]) -> None:
    """Raises: InputError saying what would fit."""
    if any(row.fits for row in rows):
        return
    least = min(rows, key=lambda row: row.memory.total)
    raise InputError(
        f"{plan.cluster.gpus} x {plan.cluster.memory_gib:g} GiB",
        got=f"{least.memory.total / GIB:.1f} GiB a GPU at the least ({least.strategy.name})",
        wanted=f"a strategy that fits into {plan.cluster.memory_gib:g} GiB",
        do=enough(plan),
    )


def require_division(sequences: int, gpus: int) -> None:
    """Raises: InputError naming the nearest numbers of GPUs that divide the step."""
    if sequences % gpus:
        known = [count for count in range(1, sequences + 1) if sequences % count == 0]
        below, above = [count for count in known if count < gpus][-1], [count for count in known if count > gpus][:1]
        near = " or ".join(str(count) for count in (below, *above))
        raise InputError(
            "prompts_per_step x num_generations",
            got=f"{sequences} completions a step on {gpus} GPUs",
            wanted="the same number on every GPU",
            do=f"--gpus {near}, or another --prompts-per-step",
        )


def require_room(plan: Plan) -> None:
    """Raises: InputError if vLLM cannot hold the weights and one completion, or its groups do not divide the GPUs."""
    engine, cluster, element = plan.engine, plan.cluster, PRECISIONS[plan.precision].weights
    if engine is None:
        return
    if not engine.server and cluster.gpus % engine.tensor_parallel:
        raise InputError(
            "--tensor-parallel-size",
            got=f"groups of {engine.tensor_parallel} of {cluster.gpus} GPUs",
            wanted="a number that divides those that train",
            do="change it, or --gpus",
        )
    if not room(plan.model, engine, plan.work, cluster, element):
        weights = element * plan.model.parameters / engine.tensor_parallel / GIB
        one = element * plan.model.key_value_bytes * plan.work.length / engine.tensor_parallel / GIB
        raise InputError(
            "--gpu-memory-utilization",
            got=f"{engine.share:g} x {cluster.memory_gib:g} GiB of a GPU for vLLM",
            wanted=f"{weights:.1f} GiB for the weights and {one:.2f} for the KV cache of one completion",
            do="raise it, or --tensor-parallel-size",
        )


DEFAULTS: dict[str, Any] = {
    "prompts_per_step": 32,
    "num_generations": 16,
    "num_iterations": 1,
    "max_completion_length": 1024,
    "max_steps": 500,
}
"""In place of params.yaml, where there is none and no flag."""


PROMPT_LENGTH, RANK = 256, 16


SHARES = {"colocate": 0.3, "server": 0.9}
"""Of a GPU's memory for vLLM."""


def work_of(flags: Mapping[str, Any], params: Params | None) -> Work:
    """A flag wins over params.yaml, that over DEFAULTS. params.yaml does not say how long prompts are."""

    def value(name: str) -> int:
        given = flags.get(name)
        if given is not None:
            return int(given)
        return int(getattr(params.grpo, name) if params else DEFAULTS[name])

    lora = params.model.lora if params else None
    return Work(
        sequences=value("prompts_per_step") * value("num_generations"),
        prompt=int(flags.get("prompt_length") or PROMPT_LENGTH),
        completion=value("max_completion_length"),
        iterations=value("num_iterations"),
        steps=value("max_steps"),
        reference=params.grpo.beta > 0 if params else True,
        rank=int(flags.get("lora_rank") or (lora.r if lora else RANK)),
        adapters=lora is not None,
    )


def engine_of(flags: Mapping[str, Any], params: Params | None) -> Engine | None:
    """vLLM as flags, then params.yaml ask for it; None where transformers generates."""
    ours = params.launch.vllm if params and params.grpo.use_vllm else None
    mode = flags.get("vllm") or (ours.mode if ours else "no")
    if mode == "no":
        return None
    return Engine(
        server=mode == "server",
        tensor_parallel=int(flags.get("tensor_parallel_size") or (ours.tensor_parallel_size if ours else 1)),
        share=float(flags.get("gpu_memory_utilization") or (ours.gpu_memory_utilization if ours else SHARES[mode])),
        sleeps=mode == "colocate" and bool(flags.get("enable_sleep_mode") or (ours and ours.enable_sleep_mode)),
    )


def cluster_of(flags: Mapping[str, Any]) -> Cluster:
    memory_gib = float(flags["gpu_memory_gib"])
    reserve = flags.get("reserve_gib")
    known = Cluster(int(flags["gpus"]), memory_gib, default_reserve_gib(memory_gib) if reserve is None else reserve)
    units = {"tflops": 1.0, "utilisation": 1.0, "bandwidth": 1e9, "link": 1e9, "efficiency": 1.0}
    given = {name: flags[name] * unit for name, unit in units.items() if flags.get(name) is not None}
    return replace(known, **given)


def run(flags: Mapping[str, Any], params_path: Path) -> None:
    """Print the table, the assumptions and the recommendation.

    Raises: InputError if nothing fits, after the table, or if the batch cannot be divided.
    """
    params = load_params(params_path) if params_path.is_file() else None
    model = from_config(Path(flags["config"])) if flags.get("config") else of_size(flags["model_size"])
    work, cluster, engine = work_of(flags, params), cluster_of(flags), engine_of(flags, params)
    plan = Plan(model, work, cluster, flags.get("precision") or "mixed", not flags["full_logits"], engine)
    require_division(plan.work.sequences, plan.cluster.gpus)
    require_room(plan)
    rows = plan.rows()
    best = recommended(rows, plan.work)
    print(table(plan, rows, best))
    print()
    for line in [*assumptions(plan), f"lengths and batch: flags, then {params_path if params else 'defaults of plan'}"]:
        print(line)
    require_fit(plan, rows)
    if best is not None:
        print(closing_line(plan, best))


def closing_line(plan: Plan, best: Row) -> str:
    wanted = (plan.work.adapters, plan.work.reference)
    kind = "adapters" if plan.work.adapters else "all weights"
    short = f" | {kind} {'with' if plan.work.reference else 'without'} a reference, as wanted, do not fit"
    return (
        f"plan | {best.strategy.name}, {'with' if best.reference else 'without'} a reference, "
        f"{'recomputing' if best.checkpointing else 'keeping'} activations, micro-batch {best.micro} | "
        f"{best.memory.total / GIB:.1f} of {plan.cluster.memory_gib:g} GiB | {best.seconds:.3g} s/step, "
        f"{duration(best.seconds * plan.work.steps)}, {plan.hours(best):.3g} GPU-hours"
        f"{short if (best.strategy.adapters, best.reference) != wanted else ''}"
    )
