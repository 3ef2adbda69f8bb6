"""Keys and values of a batch, written in place: transformers' own cache concatenates, a copy of everything a token."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 128
"""Tokens that a full buffer grows by at least; half its length if that is more."""


def can_expand(cache: DynamicCache) -> bool:
    """Every layer holds keys and values of attention, nothing else: no state of a Mamba, no index, no compression."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def expand(cache: DynamicCache, rows_N: torch.Tensor, limit: int) -> DynamicCache:
    """The cache of prompts as that of completions, each of which goes on from the prompt in its row.

    `limit` tokens at most are added to it.
    """
    larger = DynamicCache()
    larger.layers = [InPlaceLayer(layer, rows_N, limit) if layer.is_initialized else layer for layer in cache.layers]
    return larger


def keep(cache: DynamicCache, rows_N: torch.Tensor) -> None:
    """Take the other rows out of a cache that `expand` made."""
    for layer in cache.layers:
        if isinstance(layer, InPlaceLayer):
            layer.keep(rows_N)


class InPlaceLayer(DynamicLayer):
    """Buffers with room for tokens to come; a layer with a sliding window shows attention what is in the window."""

    def __init__(self, prompts: DynamicLayer, rows_N: torch.Tensor, limit: int) -> None:
        super().__init__()
        self.window: int | None = getattr(prompts, "sliding_window", None)
        self.is_sliding = self.window is not None
        self.filled: int = prompts.keys.shape[2]
        self.dropped = prompts.get_seq_length() - self.filled
        self.most = self.filled + limit
        self.dtype, self.device, self.is_initialized = prompts.keys.dtype, prompts.keys.device, True
        self.all_keys = self.with_room(prompts.keys, rows_N)
        self.all_values = self.with_room(prompts.values, rows_N)
        self.show()

    def with_room(self, filled: torch.Tensor, rows_N: torch.Tensor | None = None) -> torch.Tensor:
        rows, heads, length, size = filled.shape
        capacity = min(self.most, length + max(ROOM, length // 2))
        larger = filled.new_empty((rows if rows_N is None else len(rows_N), heads, capacity, size))
        larger[:, :, :length] = filled if rows_N is None else filled[rows_N.to(filled.device)]
        return larger

    def show(self) -> None:
        start = max(0, self.filled - self.window) if self.window is not None else 0
        self.keys = self.all_keys[:, :, start : self.filled]
        self.values = self.all_values[:, :, start : self.filled]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.filled + key_states.shape[2]
        if end > self.all_keys.shape[2]:
            self.all_keys, self.all_values = self.with_room(self.all_keys), self.with_room(self.all_values)
        self.all_keys[:, :, self.filled : end] = key_states
        self.all_values[:, :, self.filled : end] = value_states
        self.filled = end
        self.show()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        length: int = self.dropped + self.filled
        return length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = self.filled + query_length
        shown = length if self.window is None else min(length, self.window)
        return shown, self.dropped + length - shown

    def keep(self, rows_N: torch.Tensor) -> None:
        rows_N = rows_N.to(self.all_keys.device)
        self.all_keys, self.all_values = self.all_keys[rows_N], self.all_values[rows_N]
        self.show()
