"""From verdicts on completions to metrics.json: rates with intervals, lengths, gains, and the gate's answer.

The verdict on problems of ours is that of the reward in training (posttrain/judge). What lighteval's own metric says of
the same declared answers is recorded beside, because another version of the parser decides there. On a benchmark it is
the other way round: prompts, golds and metric belong together.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from posttrain.evaluation.gate import ALL_CLEAN, holds_on_clean, passes
from posttrain.evaluation.statistics import Comparison, compared, interval, pass_at_k
from posttrain.evaluation.votes import majorities
from posttrain.judge.answers import declared_answer
from posttrain.judge.verifier import Verifier

Row = dict[str, Any]
"""One problem: what it is, and under the name of each model what was made of it."""


def rows_of(found: Mapping[str, Any]) -> list[str]:
    """The models in a row of samples, or in the metrics of a task."""
    return [
        name
        for name, value in found.items()
        if isinstance(value, dict) and ("completions" in value or "pass@1" in value)
    ]


def parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The problems that training has seen and the clean rest, where the data say which these are."""
    if not any(row.get("contaminated") for row in rows):
        return {}
    return {
        "clean": [row for row in rows if not row.get("contaminated")],
        "contaminated": [row for row in rows if row.get("contaminated")],
    }


# ---------------------------------------------------------------------------------------------------------------------
# One model


def model_metrics(rows: Sequence[Row], name: str, theirs: Mapping[str, float], verifier: Verifier) -> dict[str, Any]:
    """Rates of our verdicts, the interval of pass@1, form and lengths; lighteval's own numbers beside them."""
    made = [row[name] for row in rows]
    found = {
        **rates(made),
        **votes(made, verifier),
        "format": mean([reward["format"] for one in made for reward in one["rewards"]]),
        "undecided": sum(reward["accuracy"] is None for one in made for reward in one["rewards"]),
        **lengths(made),
        **{f"lighteval_{metric}": value for metric, value in theirs.items()},
        "lighteval_differs": sum(kind is not None for one in made for kind in one["differs"]),
    }
    return found | {
        part: {**rates([row[name] for row in some]), "problems": len(some)}
        for part, some in parts(rows).items()
        if some
    }


def benchmark_metrics(rows: Sequence[Row], name: str, theirs: Mapping[str, float]) -> dict[str, Any]:
    """Rates of lighteval's verdicts; what our judge says of the answers that it finds stated, beside them."""
    made = [row[name] for row in rows]
    ours = [verdict for one in made for verdict in one["judge"] if verdict is not None]
    return {
        **rates(made),
        **lengths(made),
        **{f"lighteval_{metric}": value for metric, value in theirs.items()},
        "judge_stated": len(ours) / sum(len(one["judge"]) for one in made),
        "judge_pass@1": mean([mean([float(verdict or 0) for verdict in one["judge"]]) for one in made]),
        "judge_differs": sum(kind is not None for one in made for kind in one["differs"]),
    }


def rates(made: Sequence[Row]) -> dict[str, Any]:
    """pass@k for every k, and the interval of pass@1."""
    n = len(made[0]["correct"])
    found = interval([mean(one["correct"]) for one in made], n)
    right_P = [sum(value > 0.5 for value in one["correct"]) for one in made]
    passed = {f"pass@{k}": mean([pass_at_k(right, n, k) for right in right_P]) for k in range(2, n + 1)}
    return {"pass@1": found.mean, "pass@1_low": found.low, "pass@1_high": found.high, **passed}


def votes(made: Sequence[Row], verifier: Verifier) -> dict[str, float]:
    """maj@n; nothing for one sample a problem."""
    n = len(made[0]["correct"])
    if n == 1:
        return {}
    answers_P = [[declared_answer(text) for text in one["completions"]] for one in made]
    return {f"maj@{n}": mean(majorities(answers_P, [one["correct"] for one in made], verifier))}


def lengths(made: Sequence[Row]) -> dict[str, Any]:
    """Tokens of completions, end token included: of all, of the right, of the wrong; and how many were cut off."""
    finished = [value for one in made for value in one["finished"]]
    sizes = [(size, correct > 0.5) for one in made for size, correct in zip(one["tokens"], one["correct"], strict=True)]
    kinds = {
        "": [size for size, _ in sizes],
        "_right": [size for size, right in sizes if right],
        "_wrong": [size for size, right in sizes if not right],
    }
    found = {f"tokens{kind}": distribution(some) for kind, some in kinds.items() if some}
    return {"finished": mean(finished), "truncated": 1 - mean(finished), **found}


def distribution(sizes: Sequence[int]) -> dict[str, float]:
    """Mean, median, and the length that 95 % do not exceed."""
    ordered = sorted(sizes)
    highest = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return {"mean": mean(ordered), "median": float(statistics.median(ordered)), "p95": float(highest)}


# ---------------------------------------------------------------------------------------------------------------------
# Models on the same problems


def paired_gain(rows: Sequence[Row], before: str, after: str) -> Comparison:
    """The gain in pass@1 over the same problems."""
    before_P, after_P = ([mean(row[name]["correct"]) for row in rows] for name in (before, after))
    return compared(before_P, after_P, len(rows[0][before]["correct"]))


def block(rows: Sequence[Row], models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The metrics of one task: its models, the gain of each over the one before it, and what they were asked."""
    gains = [
        {"before": before, "after": after, **asdict(paired_gain(rows, before, after))}
        for before, after in pairwise(models)
    ]
    first = next(iter(models))
    return {**models, "gains": gains, "problems": len(rows), "samples_per_problem": len(rows[0][first]["correct"])}


def summary(rows: Sequence[Row], models: Mapping[str, dict[str, Any]], min_gain: float | None) -> dict[str, Any]:
    """The claim of the pipeline: models, the paired gain of GRPO over SFT, of SFT over the base, and the gate."""
    metrics: dict[str, Any] = dict(models)
    if "base" in metrics:
        metrics["sft_gain"] = asdict(paired_gain(rows, "base", "sft"))
    gain = paired_gain(rows, "sft", "grpo")
    clean: dict[str, Any] | None = ALL_CLEAN
    if (some := parts(rows).get("clean")) is not None:
        clean = metrics["clean_gain"] = asdict(paired_gain(some, "sft", "grpo")) if some else None
    passed = passes(gain, gain.verdict, min_gain) and (min_gain is None or holds_on_clean(clean, min_gain))
    told = asdict(gain)
    return {
        **metrics,
        "verdict": told.pop("verdict"),
        "gain": told,
        "gate": {"min_gain": min_gain, "passed": passed},
        "problems": len(rows),
        "samples_per_problem": len(rows[0]["sft"]["correct"]),
    }


def key_metrics(metrics: Mapping[str, Any]) -> dict[str, float | str]:
    """The claim in few numbers, for DVC's tables: pass@1 after SFT and GRPO, the gain, its interval, the verdict."""
    gain = metrics["gain"]
    numbers = {name: metrics[name]["pass@1"] for name in ("sft", "grpo")}
    numbers |= {"gain": gain["mean"], "gain_low": gain["low"], "gain_high": gain["high"]}
    return {name: round(value, 4) for name, value in numbers.items()} | {"verdict": metrics["verdict"]}


# ---------------------------------------------------------------------------------------------------------------------
# What a person is told


def show(metrics: Mapping[str, Any]) -> None:
    """The pipeline's models and what is claimed, one line each; its further tasks after them."""
    n = metrics["samples_per_problem"]
    show_models(metrics, n)
    if base := metrics.get("sft_gain"):
        claim = f"{base['mean']:+.3f} [{base['low']:+.3f}, {base['high']:+.3f}], paired p {base['p_value']:.2g}"
        print(f"evaluate | SFT over the base {base['verdict']}: pass@1 {claim}")
    gain = Comparison(**metrics["gain"], verdict=metrics["verdict"])
    print(f"evaluate | {gain.verdict}: pass@1 {gain.claim(metrics['problems'], n)}")
    if clean := metrics.get("clean_gain"):
        claim = Comparison(**clean).claim(metrics["grpo"]["clean"]["problems"], n)
        print(f"evaluate | without problems that training has seen, {clean['verdict']}: pass@1 {claim}")
    show_tasks(metrics.get("tasks", {}))


def show_tasks(tasks: Mapping[str, Any]) -> None:
    for task, found in tasks.items():
        n = found["samples_per_problem"]
        print(f"evaluate | {task}: {found['problems']} problems x {n} samples")
        show_models(found, n)
        for gain in found["gains"]:
            told = Comparison(**{key: value for key, value in gain.items() if key not in ("before", "after")})
            claim = f"pass@1 {told.claim(found['problems'], n)}"
            print(f"evaluate | {told.verdict}: {gain['after']} over {gain['before']}, {claim}")


def show_models(metrics: Mapping[str, Any], n: int) -> None:
    names = rows_of(metrics)
    width = max([4, *map(len, names)])
    for name in names:
        m, lead = metrics[name], f"evaluate | {name:{width}} |"
        shown = [key for key in ("pass@1", f"pass@{n}", f"maj@{n}") if key in m]
        values, limits = [f"{key} {m[key]:.3f}" for key in shown], f"[{m['pass@1_low']:.3f}, {m['pass@1_high']:.3f}]"
        form = f" | format {m['format']:.3f}" if "format" in m else ""
        size = m["tokens"]
        told = f"tokens {size['mean']:.0f}, 95 % up to {size['p95']:.0f} | cut off {m['truncated']:.3f}"
        print(f"{lead} {' | '.join(dict.fromkeys(values))} | pass@1 95 % {limits}{form} | {told}")
        for part in ("clean", "contaminated"):
            if part in m:
                low, high = m[part]["pass@1_low"], m[part]["pass@1_high"]
                print(f"{lead} {part}: {m[part]['problems']} problems, {m[part]['pass@1']:.3f} [{low:.3f}, {high:.3f}]")
        for line in remarks(m):
            print(f"{lead} {line}")


def remarks(m: Mapping[str, Any]) -> list[str]:
    found = []
    if m.get("lighteval_differs"):
        found.append(f"lighteval's own verdict differs on {m['lighteval_differs']} completions")
    if "judge_differs" in m:
        found.append(
            f"judged by lighteval; our judge finds an answer stated in {m['judge_stated']:.3f} of the completions, "
            f"says pass@1 {m['judge_pass@1']:.3f} and differs on {m['judge_differs']}"
        )
    if m.get("undecided"):
        found.append(f"{m['undecided']} completions without a verdict in time count as wrong")
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
