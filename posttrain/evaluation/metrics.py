"""From lighteval's verdicts on the models to metrics.json: intervals, the paired gain, the gate's answer."""

import math
from dataclasses import asdict
from typing import Any

from posttrain import paths
from posttrain.errors import InputError
from posttrain.evaluation.rows import ROWS
from posttrain.evaluation.statistics import Interval, bootstrap_interval, sign_flip_p_value, verdict
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Verifier, judge

PAIRED_SEED = 0  # of the resampling, which is part of the method and not of the experiment


def require_golds(problems: list[dict[str, Any]]) -> None:
    """Raises: InputError if the data have no gold answers to judge by."""
    if not all(problem["answer"] for problem in problems):
        raise InputError(
            str(paths.PREPARED / "test.jsonl"),
            got="problems without a gold answer (prepare.columns.answer is null)",
            wanted="a gold answer for lighteval to judge by; it does not run programs",
            do="evaluate such a model with a benchmark of its own, for instance lighteval's lcb:codegeneration",
        )


def rows_of(found: dict[str, Any]) -> list[str]:
    """The models among the keys of an outcome, a sample or the metrics."""
    return [name for name in ROWS if name in found]


def join(problems: list[dict[str, Any]], outcome: dict[str, Any], verifier: Verifier) -> list[dict[str, Any]]:
    """One row a problem: gold, and for each model its completions, lighteval's verdicts and our own."""
    rows = []
    for number, problem in enumerate(problems):
        row: dict[str, Any] = dict(problem)
        for name in rows_of(outcome):
            theirs = outcome[name]["rows"][number]
            texts = theirs["completions"]
            rewards = judge(texts, [problem["answer"]] * len(texts), verifier)
            row[name] = {key: theirs[key] for key in ("completions", "correct", "finished")} | {"rewards": rewards}
        rows.append(row)
    return rows


def summary(samples: list[dict[str, Any]], outcome: dict[str, Any], params: Params) -> dict[str, Any]:
    """Metrics of the models, the paired gain of GRPO over SFT, of SFT over the base if it is there, and the gate."""
    names = rows_of(outcome)
    metrics: dict[str, Any] = {name: model_metrics(samples, name, outcome[name]["metrics"]) for name in names}
    if "base" in metrics:
        gain, p_value = paired_gain(samples, "base", "sft")
        metrics["sft_gain"] = asdict(gain) | {"p_value": p_value, "verdict": verdict(gain)}
    gain, p_value = paired_gain(samples, "sft", "grpo")
    minimum = params.evaluate.gate.min_gain
    return {
        **metrics,
        "gain": asdict(gain) | {"p_value": p_value},
        "verdict": verdict(gain),
        "gate": {
            "min_gain": minimum,
            "passed": minimum is None or (gain.mean >= minimum - 1e-9 and verdict(gain) == "improved"),
        },
        "problems": len(samples),
        "samples_per_problem": params.evaluate.num_samples,
    }


def paired_gain(samples: list[dict[str, Any]], before: str, after: str) -> tuple[Interval, float]:
    """The gain in pass@1 over the same problems, and how likely chance alone gives one as large."""
    differences_P = [_mean(row[after]["correct"]) - _mean(row[before]["correct"]) for row in samples]
    return bootstrap_interval(differences_P, PAIRED_SEED), sign_flip_p_value(differences_P, PAIRED_SEED)


def model_metrics(samples: list[dict[str, Any]], name: str, lighteval: dict[str, float]) -> dict[str, Any]:
    """lighteval's own numbers, the interval of pass@1, the form, and how often our reward disagrees with lighteval."""
    completions = [
        (reward, correct, finished)
        for row in samples
        for reward, correct, finished in zip(
            row[name]["rewards"], row[name]["correct"], row[name]["finished"], strict=True
        )
    ]
    interval = bootstrap_interval([_mean(row[name]["correct"]) for row in samples], PAIRED_SEED)
    return {
        **lighteval,
        "pass@1_low": interval.low,
        "pass@1_high": interval.high,
        "format": _mean([reward["format"] for reward, _, _ in completions]),
        "finished": _mean([float(finished) for _, _, finished in completions]),
        "reward_disagrees": sum(reward["accuracy"] not in (correct, None) for reward, correct, _ in completions),
        "reward_undecided": sum(reward["accuracy"] is None for reward, _, _ in completions),
    }


def show(metrics: dict[str, Any]) -> None:
    """The models and what is claimed, one line each."""
    for name in rows_of(metrics):
        m = metrics[name]
        extra = [f"{key} {m[key]:.3f}" for key in sorted(m) if key.startswith(("pass@", "maj@")) and "_" not in key]
        interval = f"[{m['pass@1_low']:.3f}, {m['pass@1_high']:.3f}]"
        print(f"evaluate | {name:4} | {' | '.join(extra)} | pass@1 95 % {interval} | format {m['format']:.3f}")
        if m["reward_disagrees"]:
            print(
                f"evaluate | {name:4} | training reward and lighteval disagree on {m['reward_disagrees']} completions"
            )
    if base := metrics.get("sft_gain"):
        claim = f"{base['mean']:+.3f} [{base['low']:+.3f}, {base['high']:+.3f}], paired p {base['p_value']:.2g}"
        print(f"evaluate | SFT over the base {base['verdict']}: pass@1 {claim}")
    gain = metrics["gain"]
    print(
        f"evaluate | {metrics['verdict']}: pass@1 {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], "
        f"paired p {gain['p_value']:.2g}, {metrics['problems']} problems x {metrics['samples_per_problem']} samples"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
