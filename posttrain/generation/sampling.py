"""How the next token is drawn: every completion from its own stream of uniform numbers, by the inverse of the CDF."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LIKELIEST = 1024
"""Tokens that are looked at first for `top_p`: a CPU sorts a large vocabulary in the time of a model's step."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn from what a model says."""

    max_new_tokens: int
    temperature: float
    """0: the likeliest token."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, likeliest first."""


def uniforms(seeds_N: Sequence[int], length: int) -> torch.Tensor:
    """Numbers in [0, 1) of shape (N, length), a row for each seed; a longer row begins with the shorter one's."""
    rows = [torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds_N]
    return torch.stack(rows) if rows else torch.empty(0, length)


def pick(logits_NV: torch.Tensor, sampling: Sampling, uniform_N1: torch.Tensor) -> torch.Tensor:
    """The next token of each row (N,). A row's token depends on its own logits and number only."""
    if sampling.temperature == 0:
        return logits_NV.argmax(-1)
    probabilities_NV = (logits_NV.float() / sampling.temperature).softmax(-1)
    if sampling.top_p >= 1:
        return invert(probabilities_NV.cumsum(-1), uniform_N1)
    if probabilities_NV.device.type != "cpu" or probabilities_NV.shape[-1] <= LIKELIEST:
        return pick_sorted(*probabilities_NV.sort(dim=-1, descending=True), sampling.top_p, uniform_N1)
    likeliest_NL, order_NL = probabilities_NV.topk(LIKELIEST)
    next_N = pick_sorted(likeliest_NL, order_NL, sampling.top_p, uniform_N1)
    short_N = likeliest_NL.sum(-1) < sampling.top_p
    if bool(short_N.any()):
        whole = probabilities_NV[short_N].sort(dim=-1, descending=True)
        next_N[short_N] = pick_sorted(*whole, sampling.top_p, uniform_N1[short_N])
    return next_N


def pick_sorted(
    sorted_NV: torch.Tensor, order_NV: torch.Tensor, top_p: float, uniform_N1: torch.Tensor
) -> torch.Tensor:
    """From the likeliest tokens that have the mass `top_p` together, of probabilities that fall."""
    cdf_NV = sorted_NV.cumsum(-1)
    last_N1: torch.Tensor = torch.searchsorted(cdf_NV, cdf_NV.new_full((len(cdf_NV), 1), top_p))
    kept_N1 = cdf_NV.gather(-1, last_N1.clamp_(max=cdf_NV.shape[-1] - 1))
    return order_NV.gather(-1, invert(cdf_NV, uniform_N1, kept_N1)[:, None])[:, 0]


def invert(cdf_NV: torch.Tensor, uniform_N1: torch.Tensor, mass_N1: torch.Tensor | None = None) -> torch.Tensor:
    """First column whose cumulated probability exceeds this share of the mass, so never one of probability 0."""
    mass_N1 = cdf_NV[:, -1:] if mass_N1 is None else mass_N1
    below_N1 = torch.nextafter(mass_N1, torch.zeros_like(mass_N1))  # rounding may bring the product up to the mass
    share_N1 = torch.minimum(uniform_N1.to(mass_N1) * mass_N1, below_N1)
    return torch.searchsorted(cdf_NV, share_N1, right=True)[:, 0]
