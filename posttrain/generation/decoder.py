"""A batch of completions that a model's own `forward` makes longer by a token at a time."""

import inspect
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from posttrain.generation.cache import can_expand, expand, keep

ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "cache", "use_cache"}


class Decoder:
    """Prompts computed once, and the completions that go on from them; nothing is computed twice."""

    def __init__(
        self, model: PreTrainedModel, prompts_PT: torch.Tensor, mask_PT: torch.Tensor, rows_N: torch.Tensor, limit: int
    ) -> None:
        """Prompts padded on the left, and the prompt of each completion; `limit` tokens at most are added."""
        self.model = model
        self.options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in arguments(model) else {}
        positions_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
        self.mask_NT: torch.Tensor | None = None
        if not bool(mask_PT.all()):
            self.mask_NT = torch.cat([mask_PT[rows_N], mask_PT.new_ones(len(rows_N), limit)], 1)
        cache = DynamicCache(config=model.config)
        mask = None if self.mask_NT is None else mask_PT
        self.logits_NV = self.forward(prompts_PT, mask, positions_PT, cache)[rows_N]
        """What the model says of each completion's next token."""
        self.positions_N1 = positions_PT[rows_N, -1:] + 1
        self.length = prompts_PT.shape[1]
        self.go_on(cache, rows_N, limit)

    def go_on(self, cache: DynamicCache, rows_N: torch.Tensor, limit: int) -> None:
        self.cache = expand(cache, rows_N, limit)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        said = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            **self.options,
        )
        logits: torch.Tensor = said.logits[:, -1]
        return logits

    def step(self, tokens_N: torch.Tensor) -> torch.Tensor:
        """What the model says after these tokens, one a completion."""
        self.length += 1
        mask = None if self.mask_NT is None else self.mask_NT[:, : self.length]
        self.logits_NV = self.forward(tokens_N[:, None], mask, self.positions_N1, self.cache)
        self.positions_N1 = self.positions_N1 + 1
        return self.logits_NV

    def keep(self, rows_N: torch.Tensor) -> None:
        """Go on with these completions only."""
        keep(self.cache, rows_N)
        self.positions_N1 = self.positions_N1[rows_N]
        self.mask_NT = None if self.mask_NT is None else self.mask_NT[rows_N]


def can_decode(model: PreTrainedModel) -> bool:
    """Its code is transformers' own, takes what `Decoder` gives it, and remembers keys and values only."""
    ours = type(model).__module__.startswith("transformers.models.") and arguments(model) >= ARGUMENTS
    return ours and not model.config.is_encoder_decoder and can_expand(DynamicCache(config=model.config))


def arguments(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(type(model).forward).parameters)
