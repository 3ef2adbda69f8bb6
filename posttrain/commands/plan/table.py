"""What `posttrain plan` prints: a row a plan, what was assumed, and the one that is recommended."""

from posttrain.commands.plan.machine import GIB
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.work import PRECISIONS, Work

MEMORY = {
    **{"weights": "weights", "grads": "gradients", "optim.": "optimizer", "ref.": "reference", "buffers": "buffers"},
    **{"activ.": "activations", "logits": "logits", "gener.": "generation", "update": "update", "total": "total"},
}
"""Heading, and property of Plan."""

HEADER = ["strategy", "reference", "recompute", *MEMORY, "fits", "micro-batch", "s/step", "GPU-h"]


def table(plans: list[Plan], best: Plan | None) -> str:
    lines = [HEADER, *(cells(plan, plan is best) for plan in plans)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    )


def cells(plan: Plan, best: bool) -> list[str]:
    flags = ["yes" if flag else "no" for flag in (plan.work.reference, plan.recompute)]
    gib = [f"{getattr(plan, name) / GIB:.1f}" for name in MEMORY.values()]
    price = [str(plan.micro_batch), f"{plan.step_s:.3g}", f"{plan.gpu_hours:.3g}"] if plan.fits else ["-"] * 3
    return [plan.strategy.name, *flags, *gib, "best" if best else "yes" if plan.fits else "no", *price]


def assumptions(plan: Plan) -> list[str]:
    model, work, machine, precision = plan.model, plan.work, plan.machine, PRECISIONS[plan.work.precision]
    return [
        f"model: {model.name}: {model.parameters:,} parameters, {model.layers} layers of {model.hidden}, "
        f"{model.key_values} wide keys, vocabulary {model.vocab}",
        f"step: {work.sequences} completions of {work.max_completion_length} tokens after prompts of "
        f"{work.prompt_length}, used {work.num_iterations} x; {work.max_steps} steps; adapters of rank "
        f"{work.lora_rank} on every linear layer",
        f"memory: GiB of one GPU; {machine.reserve / GIB:.1f} of {machine.memory_gib:g} are reserved; "
        f"{work.precision}: {' + '.join(map(str, precision))} bytes a parameter (weights, gradients, Adam)",
        generation(plan),
        f"time: {machine.tflops:g} TFLOP/s x {machine.utilisation:g}; {machine.bandwidth / 1e9:g} GB/s of memory and "
        f"{machine.link / 1e9:g} GB/s between GPUs, both x {machine.efficiency:g}; every completion has full length; "
        "rewards, loading and checkpoints are not counted",
    ]


def generation(plan: Plan) -> str:
    """How the columns make the total, and what generates."""
    work, gpus = plan.work, plan.work.tensor_parallel_size
    beside = "activ. + logits and update, and gener. beside it"
    largest = beside if work.vllm_beside_training else "activ. + logits, gener. and update"
    total = f"total: weights to buffers and the reserve, and the largest of {largest}"
    if work.vllm == "no":
        return f"{total}; gener. has {plan.kv_cache / GIB:.1f} of KV cache"
    more = f"vLLM on {gpus} more GPU{'s'[: gpus != 1]} generates"
    where = more if work.server_gpus else f"gener. is vLLM's on groups of {gpus}"
    share, at_once = work.gpu_memory_utilization, plan.kv_cache_completions
    return f"{total}; {where}, {share:g} of a GPU: KV cache for {at_once} completions at a time"


def closing_line(plan: Plan, wanted: Work) -> str:
    with_reference = {True: "with a reference", False: "without a reference"}
    kind = f"{'adapters' if wanted.adapters else 'all weights'} {with_reference[wanted.reference]}"
    as_wanted = (plan.strategy.adapters, plan.work.reference) == (wanted.adapters, wanted.reference)
    return (
        f"plan | {plan.strategy.name}, {with_reference[plan.work.reference]}, "
        f"{'recomputing' if plan.recompute else 'keeping'} activations, micro-batch {plan.micro_batch} | "
        f"{plan.total / GIB:.1f} of {plan.machine.memory_gib:g} GiB | {plan.step_s:.3g} s/step, "
        f"{duration(plan.step_s * wanted.max_steps)}, {plan.gpu_hours:.3g} GPU-hours"
        f"{'' if as_wanted else f' | {kind}, as wanted, do not fit'}"
    )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
