"""Greedy completions after SFT, which show whether generation stops by itself."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.training.models import complete_greedily


def sample_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    system: str | None,
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    """Problem, greedy completion and whether it finished, of a few training rows."""
    completions = complete_greedily(model, tokenizer, rows, system, max_new_tokens)
    return [
        {"problem": row["problem"], "completion": sampled.text, "finished": sampled.finished}
        for row, sampled in zip(rows, completions, strict=True)
    ]
