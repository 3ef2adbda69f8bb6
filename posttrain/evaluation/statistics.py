"""What an evaluation may claim: pass@k, intervals, and a paired comparison of two models on the same problems.

The unit is the problem, not the completion: completions of one problem are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
Verdict = Literal["improved", "indistinguishable", "regressed"]


@dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values_P: Sequence[float], seed: int) -> Interval:
    """The mean over problems with a 95 % percentile bootstrap interval (Efron 1979), problems resampled.

    Shapes: values_P (P,), one number a problem.
    """
    values = np.asarray(values_P, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(len(values), size=(500, len(values)))].mean(axis=1) for _ in range(RESAMPLES // 500)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def sign_flip_p_value(differences_P: Sequence[float], seed: int) -> float:
    """Two-sided p-value of the paired permutation test: under the null each difference may as well be its negative.

    Shapes: differences_P (P,). Returns at least 1 / (RESAMPLES + 1): the observed signs are one of the draws.
    """
    differences = np.asarray(differences_P, dtype=float)
    observed = abs(differences.mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(RESAMPLES // 500):
        signs = rng.integers(2, size=(500, len(differences))) * 2 - 1
        hits += int((np.abs((signs * differences).mean(axis=1)) >= observed - 1e-12).sum())
    return (hits + 1) / (RESAMPLES + 1)


def verdict(gain: Interval) -> Verdict:
    """Improved or regressed only if the whole interval says so."""
    if gain.low > 0:
        return "improved"
    return "regressed" if gain.high < 0 else "indistinguishable"
