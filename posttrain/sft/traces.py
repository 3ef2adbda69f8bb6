"""From rows of data/prepared/sft to the tokens of prompts and completions, a batch at a time."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from posttrain.params.schema import Params
from posttrain.prompts import prompt_messages
from posttrain.templates import Turn, render, reply_text, require_turn

TRIED = 8
"""Traces with which the chat template is tried."""
CHARACTERS = 2**20
"""Of the rows of a batch: what the tokenizer gives takes about a hundred bytes a token."""
PROMPTS = 4096
"""Rendered prompts that are kept for further traces of their problems."""


class Example(NamedTuple):
    """The tokens of a trace."""

    id: str
    prompt: list[int]
    completion: list[int]


def examples(
    rows: Iterable[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params
) -> Iterator[list[Example]]:
    """The rows in their order, in batches."""
    rows, system = iter(rows), params.prompts.system
    first = list(islice(rows, TRIED))
    tried = [(row["problem"], row["completion"]) for row in first]
    turn = require_turn(tokenizer, params.model.name_or_path, system, tried)
    texts = Texts(tokenizer, turn, system)
    for batch in batches(chain(first, rows)):
        tokens = to_tokens(tokenizer, [texts.of(row) for row in batch])
        yield [Example(row["id"], *both) for row, both in zip(batch, tokens, strict=True)]


def batches(rows: Iterable[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Rows of CHARACTERS together; a longer row is one by itself."""
    batch: list[dict[str, str]] = []
    size = 0
    for row in rows:
        length = len(row["problem"]) + len(row["completion"])
        if batch and size + length > CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


class Texts:
    """Rows as the text that is trained on: the chat template renders each problem once, as long as it is known."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, turn: Turn, system: str | None) -> None:
        self.turn = turn
        self.prompt = lru_cache(PROMPTS)(lambda problem: render(tokenizer, prompt_messages(problem, system)))

    def of(self, row: dict[str, str]) -> tuple[str, str]:
        """Prompt and completion."""
        prompt = self.prompt(row["problem"])
        return prompt, reply_text(self.turn, prompt, row["problem"], row["completion"])


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
