"""Greedy completions of GRPO's policy: samples before and after, and the probe."""

import statistics
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.rewards.scoring import Scoring, judge
from posttrain.training.models import complete_greedily


def sample_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    params: Params,
    scoring: Scoring,
) -> list[dict[str, Any]]:
    """Greedy completions of a few training problems with their scores."""
    limit = params.grpo.max_completion_length
    sampled = complete_greedily(model, tokenizer, rows, params.prompts.system, limit)
    texts, lengths_T = [one.text for one in sampled], [one.tokens for one in sampled]
    scores = scoring.scores(scoring.completions(texts, rows, lengths_T), 1)
    return [
        {"completion": one.text, "finished": one.finished, **{name: values[number] for name, values in scores.items()}}
        for number, one in enumerate(sampled)
    ]


def probe_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    params: Params,
    scoring: Scoring,
) -> float:
    """Share of the probe's problems whose greedy completion is right; a completion without a verdict is not."""
    size, system, limit = params.launch.micro_batch_size, params.prompts.system, params.grpo.max_completion_length
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    texts = [one.text for batch in batches for one in complete_greedily(model, tokenizer, batch, system, limit)]
    judged = judge(texts, [row["answer"] for row in rows], scoring.verifier)
    return statistics.fmean(scores["accuracy"] or 0.0 for scores in judged)


def show_sample(row: dict[str, Any]) -> None:
    """One training problem before and after, one completion below the other."""
    print(f"grpo | {row['problem']}  (gold {row['answer']})")
    for when in ("before", "after"):
        scores = ", ".join(f"{name} {value:g}" for name, value in row[when].items() if isinstance(value, float))
        print(f"grpo | {when}, {scores}: {row[when]['completion']!r}")
