"""The rules of the preflight: numbers, a tokenizer or scores in, findings out. Nothing is read here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.params.health import Health
from posttrain.paths import PREPARED
from posttrain.prompts import TAGS, completion_text

UNREADABLE_FRAC = 0.05
"""More golds than this left out by `prepare` are worth a look."""
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


def batches(where: str, units: int, size: int, micro_batch_size: int, processes: int) -> Finding:
    """`units` of `size` sequences each, prompts with their group or rows, make the batch of an optimizer step."""
    name, total = "batch divisibility", units * size
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


def master_weights(dtype: str, mixed_precision: str | None, strategy: str) -> Finding:
    name, where = "precision", "launch.mixed_precision"
    saw = f"{mixed_precision or 'null'}, model.dtype {dtype}, strategy {strategy}"
    if strategy in ("zero2", "zero3") and dtype == "bfloat16" and mixed_precision is None:
        why = "DeepSpeed takes bfloat16 weights only beside a float32 copy in its optimizer."
        return Finding("fault", name, where, saw, why, "Set it to bf16.")
    return Finding("ok", name, where, saw)


def rollbacks(actions: Mapping[str, str], strategy: str) -> Finding:
    """What each health rule does, by its name."""
    name, where = "rollback", "grpo.health"
    asking = [rule for rule, action in actions.items() if action == "rollback"]
    if asking and strategy not in ("single", "ddp"):
        why = "The optimizer holds weights of its own there, which would undo a rollback at the next step."
        saw = f"{', '.join(asking)} with strategy {strategy}"
        return Finding("fault", name, where, saw, why, "Let these rules warn or stop, or use ddp.")
    return Finding("ok", name, where, f"{len(asking)} rules, strategy {strategy}")


def enough_problems(prompts: int, problems: int) -> Finding:
    name, where, saw = "problems per step", "grpo.prompts_per_step", f"{prompts}, of {problems} problems to train on"
    if prompts <= problems:
        return Finding("ok", name, where, saw)
    why = "TRL drops batches that are not full, so there would be no step at all."
    return Finding("fault", name, where, saw, why, "Lower it, or raise prepare.max_train.")


def context(prompt: int, completion: int, positions: int | None) -> Finding:
    """Longest prompt and longest allowed completion, in tokens."""
    name, where = "context length", "grpo.max_completion_length"
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


def completion_lengths(lengths: Sequence[int], where: str, limit: int) -> Finding:
    """Tokens of the traces alone, against what a model may write."""
    name, frac = "room for a completion", sum(length > limit for length in lengths) / len(lengths)
    saw = f"{limit}; traces have {quantile(lengths, 0.5)} tokens (median) to {max(lengths)}, {frac:.1%} are longer"
    if frac <= TOO_LONG_FRAC:
        return Finding("ok", name, where, saw)
    why = "A completion in the style of SFT would be cut off before its answer, and score 0."
    return Finding("warn", name, where, saw, why, f"Use {quantile(lengths, 0.99)} at least.")


def quantile(values: Sequence[int], frac: float) -> int:
    return sorted(values)[math.ceil(frac * len(values)) - 1]


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizer and model


def tags(tokenizer: Any, where: str) -> Finding:
    """Do the tags come through TRL's decoding, and are their ends ends of tokens?"""
    text = completion_text("3x = 15", "x = 5")
    decoded = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    lost = [tag for tag in TAGS if tag not in decoded]
    if lost:
        why = "TRL decodes completions without special tokens, so no reward would ever see them."
        do = "Add them with `special=False`, or as plain text."
        return Finding("fault", "tags", where, f"{', '.join(lost)} vanish when decoded", why, do)
    odd = straddling(tokenizer, text)
    if odd:
        saw = ", ".join(f"{token!r} across an end of {tag}" for tag, token in odd[:4])
        why = "The tag is spelt otherwise beside other text, so the model learns several spellings of it."
        return Finding("warn", "tags", where, saw, why, "Harmless after enough SFT; added tokens avoid it.")
    count = len(tokenizer(TAGS[0], add_special_tokens=False)["input_ids"])
    return Finding("ok", "tags", where, f"kept by decoding; {TAGS[0]} is {count} token{'s'[: count != 1]}")


def straddling(tokenizer: Any, text: str) -> list[tuple[str, str]]:
    """(tag, token) for each token that holds an end of a tag and something beyond it."""
    if not tokenizer.is_fast:  # a slow tokenizer does not say where its tokens are
        return []
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        (tag, text[start:end])
        for tag in TAGS
        for first in [text.index(tag)]
        for start, end in spans
        if any(start < edge < end for edge in (first, first + len(tag)))
    ]


def end_of_turn(tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> Finding:
    """Do tokenizer, config and generation config agree on where a turn ends and what fills a batch up?"""
    name, eos = "end of turn", tokenizer.eos_token_id
    ends = {"config.json": config.get("eos_token_id"), "generation_config.json": generation.get("eos_token_id", eos)}
    other = [
        f"{file} {value}" for file, value in ends.items() if eos not in (value if isinstance(value, list) else [value])
    ]
    if other:
        saw = f"the tokenizer ends a turn with {eos} ({tokenizer.eos_token}), {', '.join(other)}"
        why = "Generation would run on to the limit, or stop early."
        return Finding(
            "fault", name, where, saw, why, "Make eos_token_id the same in all three, as `posttrain sft` does."
        )
    pads = {config.get("pad_token_id"), generation.get("pad_token_id", config.get("pad_token_id"))}
    if pads != {tokenizer.pad_token_id}:
        saw = f"the tokenizer pads with {tokenizer.pad_token_id}, the configs with {', '.join(map(str, pads))}"
        why = "Padding that one takes for text ends up in the loss."
        return Finding("fault", name, where, saw, why, "Make pad_token_id the same, as `posttrain sft` does.")
    return Finding("ok", name, where, f"{tokenizer.eos_token} everywhere, padding {tokenizer.pad_token}")


# ---------------------------------------------------------------------------------------------------------------------
# Golds and rewards


def golds(checked: int, unreadable: Sequence[str], left_out: int, kept: int) -> Finding:
    """Golds of the prepared rows that cannot be read, and how many rows `prepare` left out for that."""
    name, where = "golds that parse", str(PREPARED)
    if unreadable:
        saw = f"{len(unreadable)} of {checked} cannot be read, such as {unreadable[0][:60]!r}"
        why = "No completion can be right there, so the reward is noise."
        return Finding("fault", name, where, saw, why, "Run `posttrain prepare` again: it leaves them out.")
    frac = left_out / max(1, left_out + kept)
    saw = f"all of {checked}; prepare left out {left_out} rows, {frac:.1%}"
    if frac > UNREADABLE_FRAC:
        return Finding("warn", name, where, saw, "These may be a kind of problem.", "Look at prepare.answer_pattern.")
    return Finding("ok", name, where, saw)


Scores = Mapping[str, Sequence[float | None]]
"""Scores by reward, one for each text."""


def dry_run(right: Scores, wrong: Scores, traces: Scores, weights: Mapping[str, float]) -> list[Finding]:
    """A right and a wrong completion of each of some problems, and real traces: one finding a reward."""
    found = []
    for name, weight in weights.items():
        values = [value for scores in (right, wrong, traces) for value in scores[name] if value is not None]
        low, high = (min(values), max(values)) if values else (math.nan, math.nan)
        average = f", {mean(traces[name]):.3g} on average over {len(traces[name])} traces" if traces[name] else ""
        where, saw = f"rewards.{name}", f"{low:.3g} to {high:.3g}{average}"
        if not values or (low == high and weight):
            why = "A reward that is the same for a right, a wrong and a real completion teaches nothing."
            found.append(Finding("warn", f"reward {name}", where, f"constant: {saw}", why, "Mend or remove it."))
        else:
            found.append(Finding("ok", f"reward {name}", where, saw))
    return [*found, *right_and_wrong(right, wrong, traces)]


def right_and_wrong(right: Scores, wrong: Scores, traces: Scores) -> list[Finding]:
    """The golds as answers score 1, answers of other problems 0, and some trace is right."""
    name, where = "right and wrong answers", "rewards.accuracy"
    if "accuracy" not in right:
        return []
    missed, given = sum(s != 1 for s in right["accuracy"]), sum(s != 0 for s in wrong["accuracy"])
    if missed:
        why = "What is right must be paid, or the policy learns to avoid it."
        saw = f"{missed} of {len(right['accuracy'])} golds do not score 1 as an answer"
        return [Finding("fault", name, where, saw, why, "Look at the golds: prepare.answer_pattern, prepare.columns.")]
    if given:
        why = "The policy will find what is paid without being right."
        saw = f"{given} of {len(wrong['accuracy'])} wrong answers do not score 0"
        return [Finding("fault", name, where, saw, why, "Look at the golds: prepare.answer_pattern, prepare.columns.")]
    if traces["accuracy"] and not any(traces["accuracy"]):
        saw = f"none of {len(traces['accuracy'])} traces is right"
        why = "SFT would teach wrong answers only, and GRPO has nothing to raise."
        return [Finding("warn", name, where, saw, why, "Look at prepare.columns.solution and answer.")]
    return [Finding("ok", name, where, f"1 and 0 on {len(right['accuracy'])} problems each")]


def golds_of_their_problems(own: Sequence[bool | None], others: Sequence[bool | None]) -> Finding:
    """Verdicts of traces against the gold of their problem, and of the same traces against golds of other problems.

    A teacher may be wrong most of the time, but it is right more often than by chance.
    """
    name, where = "golds of their problems", str(PREPARED)
    right, chance = (mean([float(v) for v in verdicts if v is not None]) for verdicts in (own, others))
    saw = f"{right:.1%} of {len(own)} traces agree with the gold of their problem, {chance:.1%} with others'"
    if not chance or right - chance > 2 * math.sqrt(chance * (1 - chance) / len(own)):
        return Finding("ok", name, where, saw)
    why = "That is chance: golds and problems may be out of step, and GRPO would be paid for wrong answers."
    return Finding("warn", name, where, saw, why, "Compare some rows by hand; look at prepare.columns.")


def mean(values: Sequence[float | None]) -> float:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan
