"""From rows of data/prepared/sft.jsonl to the tokens that TRL trains on."""

from collections.abc import Iterable

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.templates import require_turn, training_text

IGNORED = -100
"""The label of a token that is not trained on."""
TRIED = 8
"""Traces with which the chat template is tried."""


def to_dataset(rows: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params) -> tuple[Dataset, int]:
    """Tokens of prompts and completions with the labels of those trained on, and how many were left out for length.

    Raises: InputError if none is short enough.
    """
    sft = params.require_sft()
    examples, longest, limit = [], 0, sft.max_length
    completion_only = sft.trl.get("completion_only_loss", True)
    system, tried = params.prompts.system, [(row["problem"], row["completion"]) for row in rows[:TRIED]]
    turn = require_turn(tokenizer, params.model.name_or_path, system, tried)
    texts = [training_text(tokenizer, turn, prompt_messages(row["problem"], system), row["completion"]) for row in rows]
    for prompt, completion in to_tokens(tokenizer, texts):
        length = len(prompt) + len(completion)
        longest = max(longest, length)
        if length <= limit:
            labels = ([IGNORED] * len(prompt) if completion_only else prompt) + completion
            examples.append({"input_ids": prompt + completion, "labels": labels})
    if not examples:
        raise InputError(
            "params.yaml: sft.max_length",
            got=f"{limit}; all {len(rows)} traces are longer",
            wanted=f"room for them; the longest has {longest} tokens",
            do="raise sft.max_length",
        )
    return Dataset.from_list(examples), len(rows) - len(examples)


def to_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each prompt as they are when the model completes it, and those of the completion.

    From one text, because some tokenizers mark a text's beginning; each by itself where a token would span both.
    """

    def encoded(some: Iterable[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(some))
        ids = (
            tokenizer(distinct, add_special_tokens=False, return_attention_mask=False)["input_ids"] if distinct else []
        )
        return dict(zip(distinct, ids, strict=True))

    prompts, wholes = encoded(prompt for prompt, _ in texts), encoded(prompt + reply for prompt, reply in texts)
    begins = [wholes[prompt + reply][: len(prompts[prompt])] == prompts[prompt] for prompt, reply in texts]
    alone = encoded(reply for (_, reply), whole in zip(texts, begins, strict=True) if not whole)
    return [
        (ids := prompts[prompt], wholes[prompt + reply][len(ids) :] if whole else alone[reply])
        for (prompt, reply), whole in zip(texts, begins, strict=True)
    ]
