"""A model's weights in another dtype, to generate with."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class Copied:
    """A copy that is kept, and has the model's weights again at each use. What is no weight stays as exact as it is."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.copy: PreTrainedModel | None = None

    @torch.no_grad()
    def of(self, model: Any) -> PreTrainedModel:
        """The model in this dtype; adapters stay in its layers."""
        source: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self.copy is None:
            self.copy = copied(source, self.dtype)
        for mine, its in zip(self.copy.parameters(), source.parameters(), strict=True):
            mine.copy_(its)
        return self.copy


def copied(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    weights = {id(one): nn.Parameter(one.to(dtype, copy=True), requires_grad=False) for one in model.parameters()}
    copy = deepcopy(model, weights)
    for part in copy.modules():
        vars(part).pop("forward", None)  # one that somebody has put there computes with the weights of the original
    return copy
