"""Real trainers of tiny models for tests, with rewards whose values a test decides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from posttrain.grpo.batch_rewards import BatchRewards
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.params.schema import Params
from posttrain.prompts import completion_text
from posttrain.sft.dataset import to_dataset
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens
from tests.templates import Template
from tests.templates import save as save_tokenizer

Reward = Callable[..., list[float | None]]

KNOWN = [
    {
        "id": str(x),
        "problem": f"Solve: 3x - 5 = {3 * x - 5}",
        "answer": f"x = {x}",
        "completion": completion_text(f"3x = {3 * x}", f"x = {x}"),
    }
    for x in (5, 7)
]
"""Two problems with a trace each, for `learnt_checkpoint`."""
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
"""A `model.scratch` that is large enough to know them by heart."""


class FixedRewards(BatchRewards):
    """Functions of a test in place of those of params, by name; every answer has a verdict."""

    def __init__(self, rewards: dict[str, Reward], rows: list[dict[str, Any]], group_size: int) -> None:
        super().__init__(None, rows, group_size)  # type: ignore[arg-type]
        self.rewards = rewards

    @property
    def names(self) -> list[str]:
        return list(self.rewards)

    def function(self, name: str) -> Reward:
        self.rewards[name].__name__ = name
        return self.rewards[name]

    def count_undecided(self, *_: Any) -> int:
        return 0


class VowelRewards(BatchRewards):
    """`accuracy` pays for vowels, so that it varies even for a random model; the other rewards are those of params."""

    def function(self, name: str) -> Callable[..., list[Any]]:
        return vowels if name == "accuracy" else super().function(name)


def vowels(completions: list[list[dict[str, str]]], **_: object) -> list[float | None]:
    return [sum(letter in "aeiou" for letter in completion[-1]["content"]) / 8 for completion in completions]


vowels.__name__ = "accuracy"


def tiny_checkpoint(params: Params, rows: list[dict[str, Any]], folder: Path) -> PreTrainedTokenizerBase:
    """A random model of params in a folder, drawn from torch's global generator; its tokenizer."""
    tokenizer = train_tokenizer([row["problem"] + "\n" + row["answer"] for row in rows], 384)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    model.save_pretrained(folder)
    return tokenizer


def learnt_checkpoint(params: Params, template: Template, rows: list[dict[str, str]], folder: Path) -> None:
    """A small model that has learnt the traces of rows by heart, with a template, as somebody's checkpoint."""
    tokenizer = save_tokenizer(template, [row["problem"] + "\n" + row["completion"] for row in rows], folder)
    dataset, _ = to_dataset(rows, tokenizer, params, folder)
    torch.manual_seed(0)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(400):
        losses = []
        for example in dataset:
            ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
            losses.append(model(input_ids=ids, labels=labels).loss)
            losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
        if max(losses) < 5e-3:
            break
    model.save_pretrained(folder)


def tiny_trainer(
    params: Params, rows: list[dict[str, Any]], reward: Reward, folder: Path, kind: type[Trainer] = Trainer
) -> Trainer:
    """A trainer of a random model with one reward, `accuracy`."""
    torch.manual_seed(0)
    tokenizer = tiny_checkpoint(params, rows, folder / "model")
    rewards = FixedRewards({"accuracy": reward}, rows, params.grpo.num_generations)
    return kind(params, folder / "model", tokenizer, rewards, trainer_config(params, folder / "trainer"))
