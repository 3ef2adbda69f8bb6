"""The rules of the preflight on params, batches and lengths: numbers in, findings out. Nothing is read here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.params.health import Health

TOO_LONG_FRAC = 0.05

Level = Literal["ok", "warn", "fault", "later"]


@dataclass(frozen=True)
class Finding:
    level: Level
    name: str
    where: str
    saw: str
    why: str = ""
    do: str = ""

    def __str__(self) -> str:
        text = f"{self.level:5} {self.name} | {self.where}: {self.saw}"
        return f"{text}. {self.why} {self.do}".rstrip() if self.why or self.do else text


def later(name: str, needs: str) -> list[Finding]:
    return [Finding("later", name, needs, f"cannot be checked before `posttrain {needs}`")]


# ---------------------------------------------------------------------------------------------------------------------
# The tutorial's five pitfalls


def few_generations(num_generations: int) -> Finding:
    name, where, saw = "too few generations per prompt", "grpo.num_generations", f"{num_generations}"
    if num_generations >= 8:
        return Finding("ok", name, where, saw)
    why = "The baseline is the mean of so few rewards that the advantages are noise."
    return Finding("warn", name, where, saw, why, "Use 8 at least, 16 if memory allows.")


def high_learning_rate(grpo: float, sft: float | None) -> Finding:
    name, where, saw = "learning rate too high", "grpo.learning_rate", f"{grpo:g}, sft's is {sft or 0:g}"
    if sft is None:
        return Finding("ok", name, where, f"{grpo:g}; sft is null, so there is none to hold it against")
    if grpo < sft:
        return Finding("ok", name, where, saw)
    why = "RL follows a noisy signal of its own making; at SFT's pace the policy collapses."
    return Finding("warn", name, where, saw, why, f"Use {sft / 5:g} or less, a fifth of sft's.")


def no_kl(beta: float) -> Finding:
    name, where, saw = "ignoring KL divergence", "grpo.beta", f"{beta:g}"
    if beta > 0:
        return Finding("ok", name, where, saw)
    why = "Nothing ties the policy to the SFT model, and TRL does not even measure how far it went."
    return Finding("warn", name, where, saw, why, "Use 0.01; with 0 a low learning rate is the only brake.")


def imbalanced_weights(weights: Mapping[str, float]) -> Finding:
    name, own = "imbalanced reward weights", weights.get("accuracy", 0.0)
    others = {key: weight for key, weight in weights.items() if key != "accuracy"}
    heaviest = max(others, key=lambda key: abs(others[key]), default="")
    saw = ", ".join(f"{key} {weight:g}" for key, weight in weights.items())
    if own <= 0:
        why = "No reward is paid for a right answer, so none is learnt."
        return Finding("warn", name, "rewards.accuracy.weight", saw, why, "Set it to 1.0.")
    if heaviest and abs(others[heaviest]) > own:
        why = f"{heaviest} pays more than a right answer: the policy gets it perfect and the answers wrong."
        return Finding(
            "warn", name, f"rewards.{heaviest}.weight", saw, why, f"Use {own / 10:g}, a tenth of accuracy's."
        )
    return Finding("ok", name, "rewards", saw)


def unseen_advantages(max_steps: int, logging_steps: int, health: Health) -> Finding:
    name, rows = "not monitoring advantage statistics", max_steps // logging_steps
    off = [rule for rule in ("low_advantage_std", "high_advantage_std") if getattr(health, rule).action == "off"]
    if rows < health.window:
        saw = f"{rows} rows in {max_steps} steps, and health rules average {health.window}"
        why = "No rule but not_finite will ever speak, whatever advantage/std does."
        return Finding("warn", name, "grpo.logging_steps", saw, why, "Lower it, or grpo.health.window.")
    if off:
        why = "Whether advantages carry any signal is what tells GRPO that works from GRPO that does not."
        return Finding("warn", name, "grpo.health", f"{', '.join(off)} off", why, "Set the action to warn.")
    return Finding("ok", name, "grpo.health", f"{rows} rows, windows of {health.window}")


def loss_and_level(loss_type: str, level: str) -> Finding:
    name, where, saw = "loss and level of its ratios", "grpo.importance_sampling_level", f"{loss_type} with {level}"
    if loss_type == "luspo" and level != "sequence":
        why = "LUSPO is defined with one ratio for a completion."
        return Finding("warn", name, where, saw, why, "Use sequence.")
    if loss_type == "vespo" and level != "token":
        why = "VESPO makes the ratio of a completion itself."
        return Finding("warn", name, where, saw, why, "Use token.")
    if level == "sequence" and loss_type in ("bnpo", "dr_grpo", "dapo", "cispo"):
        why = "These losses add up tokens, so a completion would count as often as it has tokens."
        return Finding("warn", name, where, saw, why, "Use loss_type grpo (GSPO), or level token.")
    return Finding("ok", name, where, saw)


# ---------------------------------------------------------------------------------------------------------------------
# Batches and lengths


def batches(stage: str, where: str, units: int, size: int, micro_batch_size: int, processes: int) -> Finding:
    """`units` of `size` sequences each, prompts with their group or rows, make the batch of an optimizer step."""
    name, total = f"batch divisibility of {stage}", units * size
    if total % processes:
        saw = f"{f'{units} x {size} = ' if size > 1 else ''}{total} sequences over {processes} processes"
        why = "They do not divide, and the number of processes may not change the science."
        fits = [count for count in range(1, units + processes) if count * size % processes == 0]
        below, above = [count for count in fits if count < units][-1:], [count for count in fits if count > units][:1]
        counts = [count for count in range(1, processes) if total % count == 0][-1:]
        counts += [count for count in range(processes + 1, total + 1) if total % count == 0][:1]
        sizes, others = (" or ".join(map(str, found)) for found in (below + above, counts))
        do = f"Use {sizes} of {where.split(' x ')[0]}, or {others} processes."
        return Finding("fault", name, where, saw, why, do)
    own = total // processes
    size = max(size for size in range(1, micro_batch_size + 1) if own % size == 0)
    saw = f"{own} sequences in {own // size} passes of {size}"
    if size * 2 < min(own, micro_batch_size):
        why = f"No larger part of {own} is within launch.micro_batch_size {micro_batch_size}, so passes are small."
        return Finding("warn", name, where, saw, why, "Use numbers with a common divisor near it.")
    return Finding("ok", name, where, saw)


def enough_problems(prompts: int, problems: int) -> Finding:
    name, where, saw = "problems per step", "grpo.prompts_per_step", f"{prompts}, of {problems} problems to train on"
    if prompts <= problems:
        return Finding("ok", name, where, saw)
    why = "TRL drops batches that are not full, so there would be no step at all."
    return Finding("fault", name, where, saw, why, "Lower it, or raise prepare.max_train.")


def context(stage: str, where: str, prompt: int, completion: int, positions: int | None) -> Finding:
    """Longest prompt and longest allowed completion, in tokens."""
    name = f"context length of {stage}"
    saw = f"{prompt} of the longest prompt + {completion} = {prompt + completion} tokens"
    if positions is None:
        return Finding("ok", name, where, f"{saw}; the model's config names no limit")
    saw += f", the model has {positions} positions"
    if prompt + completion <= positions:
        return Finding("ok", name, where, saw)
    why = "Beyond its positions a model writes noise, or the run ends with an index error."
    do = (
        f"Use {max(0, positions - prompt)} at most."
        if positions > prompt
        else "Drop such prompts, or take another model."
    )
    return Finding("fault", name, where, saw, why, do)


def trace_lengths(lengths: Sequence[int], max_length: int, positions: int | None) -> Finding:
    """Tokens of prompt and trace together, of a sample."""
    name, where = "lengths of the traces", "sft.max_length"
    frac = sum(length > max_length for length in lengths) / len(lengths)
    saw = f"{max_length}; traces have {quantile(lengths, 0.5)} tokens (median) to {max(lengths)}, {frac:.1%} are longer"
    if frac == 1:
        return Finding("fault", name, where, saw, "Nothing would be left to train on.", f"Use {max(lengths)}.")
    if positions is not None and max_length > positions:
        why = f"The model has {positions} positions."
        return Finding("warn", name, where, saw, why, f"Use {positions} at most.")
    if frac > TOO_LONG_FRAC:
        why = "Longer traces are left out, and they are those of the hard problems."
        return Finding("warn", name, where, saw, why, f"Use {quantile(lengths, 0.99)}, which keeps 99 %.")
    return Finding("ok", name, where, saw)


def completion_lengths(stage: str, lengths: Sequence[int], where: str, limit: int) -> Finding:
    """Tokens of the traces alone, against what a model may write."""
    name, frac = f"room for a completion of {stage}", sum(length > limit for length in lengths) / len(lengths)
    saw = f"{limit}; traces have {quantile(lengths, 0.5)} tokens (median) to {max(lengths)}, {frac:.1%} are longer"
    if frac <= TOO_LONG_FRAC:
        return Finding("ok", name, where, saw)
    why = "A completion in the style of SFT would be cut off before its answer, and score 0."
    return Finding("warn", name, where, saw, why, f"Use {quantile(lengths, 0.99)} at least.")


def quantile(values: Sequence[int], frac: float) -> int:
    return sorted(values)[math.ceil(frac * len(values)) - 1]
