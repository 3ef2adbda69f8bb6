"""Rules on golds and rewards: scores and verdicts in, findings out."""

import math
from collections.abc import Mapping, Sequence

from posttrain.commands.check.rules import Finding
from posttrain.paths import PREPARED

UNREADABLE_FRAC = 0.05
"""More golds than this left out by `prepare` are worth a look."""


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


def form_of_traces(traces: Scores, weights: Mapping[str, float]) -> list[Finding]:
    """SFT must not teach a form that GRPO then pays nothing for."""
    values = traces.get("format", ())
    if not weights.get("format") or not values:
        return []
    name, where = "form of the traces", "rewards.format"
    if any(values):
        return [Finding("ok", name, where, f"{mean(values):.1%} of {len(values)} traces have it")]
    saw = f"none of {len(values)} traces has the form that the run rewards"
    why = "SFT would teach another form, and every completion would begin with a format reward of 0."
    return [Finding("fault", name, where, saw, why, "Look at data/prepared/sft and prepare.columns.")]


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
