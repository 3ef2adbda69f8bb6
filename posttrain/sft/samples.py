"""Greedy completions after SFT, which show whether generation stops by itself."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.training.models import complete_greedily


def sample_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], params: Params
) -> list[dict[str, Any]]:
    """Problem, greedy completion and whether it finished, of a few training rows."""
    completions = complete_greedily(model, tokenizer, rows, params.prompts.system, params.sft.max_length)
    return [
        {"problem": row["problem"], "completion": completion, "finished": finished}
        for row, (completion, finished) in zip(rows, completions, strict=True)
    ]
