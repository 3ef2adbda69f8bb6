"""From rows of data/prepared/sft.jsonl to the tokens that TRL trains on."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.templates import require_turn, training_text

TRIED = 8
"""Traces with which the chat template is tried."""


def to_dataset(rows: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params) -> tuple[Dataset, int]:
    """Tokens of prompts and completions with a mask of the latter, and how many were left out for their length.

    Raises: InputError if none is short enough.
    """
    examples, longest, limit = [], 0, params.require_sft().max_length
    system, tried = params.prompts.system, [(row["problem"], row["completion"]) for row in rows[:TRIED]]
    turn = require_turn(tokenizer, params.model.name_or_path, system, tried)
    for row in rows:
        text = training_text(tokenizer, turn, prompt_messages(row["problem"], system), row["completion"])
        prompt, completion = to_tokens(tokenizer, *text)
        length = len(prompt) + len(completion)
        longest = max(longest, length)
        if length <= limit:
            mask = [0] * len(prompt) + [1] * len(completion)
            examples.append({"input_ids": prompt + completion, "completion_mask": mask})
    if not examples:
        raise InputError(
            "params.yaml: sft.max_length",
            got=f"{limit}; all {len(rows)} traces are longer",
            wanted=f"room for them; the longest has {longest} tokens",
            do="raise sft.max_length",
        )
    return Dataset.from_list(examples), len(rows) - len(examples)


def to_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt as they are when the model completes it, and those of the completion.

    From one text, because some tokenizers mark a text's beginning; each by itself where a token would span both.
    """
    first, whole, alone = tokenizer([prompt, prompt + completion, completion], add_special_tokens=False)["input_ids"]
    return first, whole[len(first) :] if whole[: len(first)] == first else alone
