"""The forward passes of an optimizer step: groups stay whole, so that their prompts are shared."""

from typing import Any

import torch

PROMPT = ("prompt_ids", "prompt_mask")
LIKE_ROWS = {"bnpo"}
"""Losses that depend on which rows share a pass."""


def order_is_free(args: Any) -> bool:
    """Whether gradients are the same however the rows of a step are dealt out to its passes."""
    entropy = args.top_entropy_quantile < 1 or args.entropy_coef or args.use_adaptive_entropy
    return args.loss_type not in LIKE_ROWS and not entropy


def whole_groups(batches: list[dict[str, Any]], accumulation: int) -> list[dict[str, Any]]:
    """Passes of a generation batch, the rows of each optimizer step sorted by their prompt.

    `accumulation` of them make a step; steps of several generation batches are sorted within each of those.
    """
    window = min(accumulation, len(batches))
    if len(batches) % window:
        return batches
    steps = [batches[start : start + window] for start in range(0, len(batches), window)]
    return [batch for step in steps for batch in by_prompt(step)]


def by_prompt(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = {name: joined([batch[name] for batch in batches]) for name in batches[0]}
    order = sorted(range(len(merged[PROMPT[0]])), key=first_of_equals(*(merged[name] for name in PROMPT)))
    rows = torch.tensor(order).chunk(len(batches))
    return [{name: taken(value, own) for name, value in merged.items()} for own in rows]


def first_of_equals(ids: torch.Tensor, mask: torch.Tensor) -> Any:
    """The place of a row's prompt among the different ones, in the order in which they come."""
    numbers: dict[bytes, int] = {}
    rows = torch.cat([ids, mask.to(ids.dtype)], dim=1).cpu().numpy()
    return [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows].__getitem__


def joined(values: list[Any]) -> Any:
    """One value of all batches: rows after rows, or what each has alike."""
    if isinstance(values[0], torch.Tensor) and values[0].ndim > 0:
        return torch.cat(values)
    return [row for value in values for row in value] if isinstance(values[0], list) else values[0]


def taken(value: Any, rows: torch.Tensor) -> Any:
    """Some rows of what has any."""
    if isinstance(value, torch.Tensor) and value.ndim > 0:
        return value[rows]
    return [value[row] for row in rows.tolist()] if isinstance(value, list) else value
