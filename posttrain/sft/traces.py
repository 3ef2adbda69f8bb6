"""From rows of data/prepared/sft.jsonl to the conversations that TRL trains on."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages


def to_dataset(rows: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params) -> tuple[Dataset, int]:
    """Conversations of a prompt and a completion, and how many were left out for their length in tokens.

    Raises: InputError if none is short enough.
    """
    examples, longest, limit = [], 0, params.require_sft().max_length
    for row in rows:
        prompt = prompt_messages(row["problem"], params.prompts.system)
        completion = [{"role": "assistant", "content": row["completion"]}]
        text = str(tokenizer.apply_chat_template(prompt + completion, tokenize=False))
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        longest = max(longest, length)
        if length <= limit:
            examples.append({"prompt": prompt, "completion": completion})
    if not examples:
        raise InputError(
            "params.yaml: sft.max_length",
            got=f"{limit}; all {len(rows)} traces are longer",
            wanted=f"room for them; the longest has {longest} tokens",
            do="raise sft.max_length",
        )
    return Dataset.from_list(examples), len(rows) - len(examples)
