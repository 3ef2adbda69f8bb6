"""Greedy completions after SFT, which show whether generation stops by itself."""

from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.training.models import sample


def sample_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], params: Params
) -> list[dict[str, Any]]:
    """Problem, greedy completion and whether it finished, of a few training rows."""
    generation = GenerationConfig(
        do_sample=False,
        max_new_tokens=params.sft.max_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = [prompt_messages(row["problem"], params.prompts.system) for row in rows]
    completions = sample(model, tokenizer, prompts, generation)
    return [
        {"problem": row["problem"], "completion": completion, "finished": finished}
        for row, (completion, finished) in zip(rows, completions, strict=True)
    ]
