"""What would do the work where nothing fits: GPUs that are sold, vLLM on its own, weights in the machine's memory."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from posttrain.commands.plan.machine import DDP, GIB, OFFLOAD, SOLD_GIB, Machine, Strategy
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.strategies import plans
from posttrain.commands.plan.work import GPU_MEMORY_UTILIZATION, Work

SERVER_GPUS = (1, 2, 4, 8)
"""GPUs that share a server's copy of the model, all in one machine."""


def remedies(asked: Plan) -> Iterator[str]:
    """For what is wanted, and then for adapters alone: larger GPUs, more of them, a server beside them.

    A server helps where more GPUs alone do not, because each has to hold the whole model to generate with it.
    """
    if asked.work.vllm_beside_training:
        yield "a smaller --gpu-memory-utilization, or --enable-sleep-mode"
    for adapters in dict.fromkeys((asked.work.adapters, True)):
        yield from (said(plan) for plan in (larger(asked, adapters), more(asked, asked.work, adapters)) if plan)
        if asked.work.vllm == "no" and (plan := served(asked, adapters)):
            yield said(plan)
    if plan := offloaded(asked):
        yield f"{said(plan)}; {plan.offloaded / GIB:.0f} GiB of the machines' memory, and slower"


def said(plan: Plan) -> str:
    """GPUs and the flags that ask for them."""
    machine, work = plan.machine, plan.work
    flags = f"--gpus {machine.gpus} --gpu-memory-gib {machine.memory_gib:g}"
    beside = f" and {work.server_gpus} for vLLM" if work.server_gpus else ""
    if work.server_gpus:
        flags += f" --vllm server --tensor-parallel-size {work.tensor_parallel_size}"
    return f"{machine.gpus} x {machine.memory_gib:g} GiB{beside} ({plan.strategy.name}): {flags}"


def larger(asked: Plan, adapters: bool) -> Plan | None:
    """As many GPUs of the smallest size that does."""
    sizes = (gib for gib in SOLD_GIB if gib > asked.machine.memory_gib)
    return first(doing(asked, replace(asked.machine, memory_gib=gib), asked.work, adapters) for gib in sizes)


def more(asked: Plan, work: Work, adapters: bool) -> Plan | None:
    """The smallest number of GPUs of this size, not fewer than there are, that divides the completions of a step."""
    counts = (count for count in range(asked.machine.gpus, work.sequences + 1) if work.sequences % count == 0)
    return first(doing(asked, replace(asked.machine, gpus=count), work, adapters) for count in counts)


def served(asked: Plan, adapters: bool) -> Plan | None:
    """With a server of the fewest GPUs that hold the model."""
    shared = (size for size in SERVER_GPUS if size >= asked.work.tensor_parallel_size)
    return first(more(asked, with_server(asked.work, size), adapters) for size in shared)


def offloaded(asked: Plan) -> Plan | None:
    """With weights and optimizer states in the machine's memory, beside a server if it takes one."""
    works = [asked.work]
    if asked.work.vllm == "no":
        works += [with_server(asked.work, size) for size in SERVER_GPUS]
    return first(doing(asked, asked.machine, work, False, [OFFLOAD]) for work in works)


def with_server(work: Work, gpus: int) -> Work:
    share = GPU_MEMORY_UTILIZATION["server"]
    return replace(work, vllm="server", tensor_parallel_size=gpus, gpu_memory_utilization=share)


def doing(
    asked: Plan, machine: Machine, work: Work, adapters: bool, strategies: Sequence[Strategy] | None = None
) -> Plan | None:
    """The fastest that fits and trains what is wanted, with the reference that is wanted."""
    if work.vllm == "server" and not Plan(asked.model, work, machine, DDP).kv_cache_completions:
        return None
    fitting = [
        plan
        for plan in plans(asked.model, work, machine, strategies)
        if plan.fits and (plan.strategy.adapters, plan.work.reference) == (adapters, work.reference)
    ]
    return min(fitting, key=lambda plan: (plan.step_s, plan.total), default=None)


def first(found: Iterator[Plan | None]) -> Plan | None:
    return next((plan for plan in found if plan), None)
