"""From the completions of the models to metrics.json: our verdicts, intervals, the paired gain, the gate's answer.

The verdict is that of the reward in training (posttrain/judge). lighteval generates; what its own metric says of the
same declared answers is recorded beside, because another version of the parser decides there.
"""

import math
from dataclasses import asdict
from typing import Any

from posttrain import paths
from posttrain.errors import InputError
from posttrain.evaluation.gate import passes
from posttrain.evaluation.rows import ROWS
from posttrain.evaluation.statistics import Comparison, compared, interval, pass_at_k
from posttrain.evaluation.votes import majorities
from posttrain.judge.answers import declared_answer
from posttrain.judge.kinds import kind_of_difference
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Verifier, judge


def require_golds(problems: list[dict[str, Any]]) -> None:
    """Raises: InputError if the data have no gold answers to judge by."""
    if not all(problem["answer"] for problem in problems):
        raise InputError(
            str(paths.PREPARED / "test.jsonl"),
            got="problems without a gold answer (prepare.columns.answer is null)",
            wanted="a gold answer to judge by; the evaluation does not run programs",
            do="evaluate such a model with a benchmark of its own, for instance lighteval's lcb:codegeneration",
        )


def rows_of(found: dict[str, Any]) -> list[str]:
    """The models among the keys of an outcome, a sample or the metrics."""
    return [name for name in ROWS if name in found]


def join(problems: list[dict[str, Any]], outcome: dict[str, Any], verifier: Verifier) -> list[dict[str, Any]]:
    """One row a problem: gold, and for each model its completions, our verdict on each, and lighteval's beside it."""
    names = rows_of(outcome)
    return [
        {**problem, **{name: judged(outcome[name]["rows"][number], problem["answer"], verifier) for name in names}}
        for number, problem in enumerate(problems)
    ]


def judged(theirs: dict[str, Any], gold: str, verifier: Verifier) -> dict[str, Any]:
    """The completions of one model to one problem. One without a verdict in time is wrong, and counted.

    `differs` has the kind of answer where lighteval's verdict is another, else null.
    """
    texts = theirs["completions"]
    rewards = judge(texts, [gold] * len(texts), verifier)
    correct = [1.0 if reward["accuracy"] else 0.0 for reward in rewards]
    differs = [
        kind_of_difference(gold, declared_answer(text)) if ours != stock else None
        for text, ours, stock in zip(texts, correct, theirs["correct"], strict=True)
    ]
    return {
        "completions": texts,
        "correct": correct,
        "finished": theirs["finished"],
        "rewards": rewards,
        "lighteval": theirs["correct"],
        "differs": differs,
    }


def summary(
    samples: list[dict[str, Any]], outcome: dict[str, Any], params: Params, verifier: Verifier
) -> dict[str, Any]:
    """Metrics of the models, the paired gain of GRPO over SFT, of SFT over the base if it is there, and the gate."""
    metrics: dict[str, Any] = {
        name: model_metrics(samples, name, outcome[name]["metrics"], verifier) for name in rows_of(outcome)
    }
    if "base" in metrics:
        metrics["sft_gain"] = asdict(paired_gain(samples, "base", "sft"))
    gain, minimum = paired_gain(samples, "sft", "grpo"), params.evaluate.gate.min_gain
    told = asdict(gain)
    return {
        **metrics,
        "verdict": told.pop("verdict"),
        "gain": told,
        "gate": {"min_gain": minimum, "passed": passes(gain, gain.verdict, minimum)},
        "problems": len(samples),
        "samples_per_problem": params.evaluate.num_samples,
    }


def paired_gain(samples: list[dict[str, Any]], before: str, after: str) -> Comparison:
    """The gain in pass@1 over the same problems."""
    before_P, after_P = ([_mean(row[name]["correct"]) for row in samples] for name in (before, after))
    return compared(before_P, after_P, len(samples[0][before]["correct"]))


def model_metrics(
    samples: list[dict[str, Any]], name: str, lighteval: dict[str, float], verifier: Verifier
) -> dict[str, Any]:
    """pass@k and maj@k of our verdicts, the interval of pass@1, the form; lighteval's own numbers beside them."""
    rows = [row[name] for row in samples]
    rewards = [reward for row in rows for reward in row["rewards"]]
    found = interval([_mean(row["correct"]) for row in rows], len(rows[0]["correct"]))
    return {
        "pass@1": found.mean,
        **many_samples(rows, verifier),
        "pass@1_low": found.low,
        "pass@1_high": found.high,
        "format": _mean([reward["format"] for reward in rewards]),
        "finished": _mean([float(value) for row in rows for value in row["finished"]]),
        "undecided": sum(reward["accuracy"] is None for reward in rewards),
        **{f"lighteval_{metric}": value for metric, value in lighteval.items()},
        "lighteval_differs": sum(kind is not None for row in rows for kind in row["differs"]),
    }


def many_samples(rows: list[dict[str, Any]], verifier: Verifier) -> dict[str, float]:
    """pass@k for every k from 2, and maj@n; nothing for one sample a problem."""
    n = len(rows[0]["correct"])
    if n == 1:
        return {}
    right_P = [int(sum(row["correct"])) for row in rows]
    answers_P = [[declared_answer(text) for text in row["completions"]] for row in rows]
    votes_P = majorities(answers_P, [row["correct"] for row in rows], verifier)
    passed = {f"pass@{k}": _mean([pass_at_k(right, n, k) for right in right_P]) for k in range(2, n + 1)}
    return {**passed, f"maj@{n}": _mean(votes_P)}


def show(metrics: dict[str, Any]) -> None:
    """The models and what is claimed, one line each."""
    n = metrics["samples_per_problem"]
    for name in rows_of(metrics):
        m = metrics[name]
        shown = ["pass@1", *([f"pass@{n}", f"maj@{n}"] if n > 1 else [])]
        values, limits = [f"{key} {m[key]:.3f}" for key in shown], f"[{m['pass@1_low']:.3f}, {m['pass@1_high']:.3f}]"
        print(f"evaluate | {name:4} | {' | '.join(values)} | pass@1 95 % {limits} | format {m['format']:.3f}")
        if m["lighteval_differs"]:
            print(f"evaluate | {name:4} | lighteval's own verdict differs on {m['lighteval_differs']} completions")
        if m["undecided"]:
            print(f"evaluate | {name:4} | {m['undecided']} completions without a verdict in time count as wrong")
    if base := metrics.get("sft_gain"):
        claim = f"{base['mean']:+.3f} [{base['low']:+.3f}, {base['high']:+.3f}], paired p {base['p_value']:.2g}"
        print(f"evaluate | SFT over the base {base['verdict']}: pass@1 {claim}")
    gain = Comparison(**metrics["gain"], verdict=metrics["verdict"])
    print(f"evaluate | {gain.verdict}: pass@1 {gain.claim(metrics['problems'], n)}")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
