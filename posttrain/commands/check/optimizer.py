"""Rules on the optimizer: updates survive rounding, the warm-up ends, and a rollback holds."""

from collections.abc import Mapping

from posttrain.commands.check.rules import Finding

RESOLUTION = 0.02 * 2**-9
"""Half the distance of weights of 0.02 in bfloat16: a smaller change is rounded away."""


def has_master(dtype: str, mixed_precision: str | None, strategy: str, lora: bool) -> bool:
    """Whether the optimizer adds its updates to float32: the weights themselves, adapters, or a copy that DeepSpeed or
    FSDP keeps with mixed precision."""
    return dtype == "float32" or lora or (strategy in ("zero2", "zero3", "fsdp") and mixed_precision == "bf16")


def precision(
    stage: str, learning_rate: float, dtype: str, mixed_precision: str | None, strategy: str, lora: bool
) -> Finding:
    """Are the updates larger than what the weights can resolve?

    Adam changes a weight by about the learning rate. bfloat16 has 8 significant bits, so a weight of 0.02 has
    neighbours about 0.02 x 2^-8 away, and a change of less than half of that is rounded away. docs/recipes.md has what
    was measured.
    """
    name, where = f"precision of {stage}", "launch.mixed_precision"
    saw = f"{mixed_precision or 'null'}, model.dtype {dtype}, strategy {strategy}"
    if strategy in ("zero2", "zero3") and dtype == "bfloat16" and mixed_precision is None:
        why = "DeepSpeed takes bfloat16 weights only beside a float32 copy in its optimizer."
        return Finding("fault", name, where, saw, why, "Set it to bf16.")
    if has_master(dtype, mixed_precision, strategy, lora):
        return Finding("ok", name, where, f"{saw}, updates in float32")
    saw = f"{learning_rate:g} on bfloat16 weights without a float32 copy, strategy {strategy}"
    where, do = (
        f"{stage}.learning_rate",
        "Set model.dtype to float32, use zero2 or fsdp with mixed_precision bf16, or LoRA.",
    )
    if learning_rate < RESOLUTION:
        why = f"Below {RESOLUTION:.0e} most updates are rounded away, and the weights stand still."
        return Finding("fault", name, where, saw, why, do)
    why = "Updates of large weights and of norms, which are near 1, are rounded away."
    return Finding("warn", name, where, saw, why, do)


def warmup(stage: str, warmup_steps: int, max_steps: int) -> Finding:
    name, where, saw = f"warm-up of {stage}", f"{stage}.warmup_steps", f"{warmup_steps} of {max_steps} steps"
    if warmup_steps < max_steps:
        return Finding("ok", name, where, saw)
    why = f"No step has the learning rate that {stage}.learning_rate names."
    return Finding("warn", name, where, saw, why, f"Use {max_steps // 10}, a tenth of the steps.")


def rollbacks(actions: Mapping[str, str], strategy: str) -> Finding:
    """What each health rule does, by its name."""
    name, where = "rollback", "grpo.health"
    asking = [rule for rule, action in actions.items() if action == "rollback"]
    if asking and strategy not in ("single", "ddp"):
        why = "The optimizer holds weights of its own there, which would undo a rollback at the next step."
        saw = f"{', '.join(asking)} with strategy {strategy}"
        return Finding("fault", name, where, saw, why, "Let these rules warn or stop, or use ddp.")
    return Finding("ok", name, where, f"{len(asking)} rules, strategy {strategy}")
