"""The strategies of a plan, each with the largest micro-batch that fits, and the one that is recommended."""

from collections.abc import Sequence
from dataclasses import replace

from posttrain.commands.plan.machine import DDP, LORA, LORA_ZERO3, ZERO2, ZERO3, Machine, Strategy
from posttrain.commands.plan.model import Model
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.work import Work

SEVERAL = (DDP, ZERO2, ZERO3, LORA, LORA_ZERO3)
ALONE = (replace(DDP, name="single"), LORA)


def plans(model: Model, work: Work, machine: Machine, strategies: Sequence[Strategy] | None = None) -> list[Plan]:
    """Every strategy, or those that are named, with and without a reference and recomputing.

    Each has the largest micro-batch that fits.
    """
    return [
        with_largest_micro_batch(Plan(model, replace(work, reference=reference), machine, strategy, recompute))
        for strategy in strategies or (SEVERAL if machine.gpus > 1 else ALONE)
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
