"""What an evaluation may claim: pass@k, intervals, and a paired comparison of two models.

The unit is the problem, not the completion: completions of one problem are not independent. Interval, p-value and
verdict of a gain come from one method, so they cannot contradict each other. All of it speaks of these two checkpoints
on problems like these, not of what another seed would have trained. benchmarks/coverage.py measures how often the
intervals hold.

Shapes: P problems, n completions of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, sqrt
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

LEVEL = 0.95
POWER = 0.8
FEWEST = 20
"""Problems below which nothing is claimed: false alarms exceed 5 % there."""
FURTHEST = 1e3
"""Student's quantile beyond which a p-value is 0 to all digits."""

Verdict = Literal["improved", "indistinguishable", "regressed", "too few problems"]


@dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % interval."""

    mean: float
    low: float
    high: float


# ---------------------------------------------------------------------------------------------------------------------
# One model


def interval(rates_P: Sequence[float], n: float) -> Interval:
    """The mean of rates between 0 and 1, each of n completions, with a Wilson interval for clusters.

    Wilson's score interval (1927) with the effective number of completions in place of their number, and Student's
    quantile for P problems, as Korn and Graubard (1998) have it for surveys. Near 0 and 1 it holds where the bootstrap
    and the normal interval cover 70 to 90 %.
    """
    rates = Rates.of(rates_P, n)
    low, high = rates.wilson(quantile(len(rates_P)))
    return Interval(rates.mean, low, high)


@dataclass(frozen=True)
class Rates:
    """The mean of a model's rates, and as how many independent completions it counts."""

    mean: float
    effective: float

    @classmethod
    def of(cls, rates_P: Sequence[float], n: float) -> "Rates":
        values = np.asarray(rates_P, dtype=float)
        mean, problems = float(values.mean()), len(values)
        independent = mean * (1 - mean) / (problems * n)
        found = float(values.var(ddof=1)) / problems / independent if problems > 1 and independent > 0 else n
        # The design effect is between 1 and n. Few right (or wrong) completions say little about it: the worst counts
        # as much as one completion's worth of information.
        weight = problems * n * mean * (1 - mean)
        effect = (weight * min(max(found, 1.0), n) + n) / (weight + 1)
        return cls(mean, problems * n / effect)

    @property
    def variance(self) -> float:
        """Of the mean."""
        return self.mean * (1 - self.mean) / self.effective

    def wilson(self, z: float) -> tuple[float, float]:
        size, mean = self.effective, self.mean
        centre = (mean + z * z / (2 * size)) / (1 + z * z / size)
        half = z * sqrt(mean * (1 - mean) / size + z * z / (4 * size * size)) / (1 + z * z / size)
        return max(0.0, centre - half), min(1.0, centre + half)


@lru_cache(64)
def quantile(problems: int, level: float = LEVEL) -> float:
    """Student's, two-sided; of one problem, which says nothing of others, the furthest."""
    return float(t.ppf((1 + level) / 2, problems - 1)) if problems > 1 else FURTHEST


# ---------------------------------------------------------------------------------------------------------------------
# Two models on the same problems


def gain(before_P: Sequence[float], after_P: Sequence[float], n: float) -> Interval:
    """The mean of after - before with an interval from those of both: Newcombe (1998), method 10, for clusters.

    Each limit is as far from the gain as the two intervals' limits are from their means, summed as the sides of a
    triangle whose angle the correlation of the models gives (MOVER; Zou and Donner 2008).
    """
    pair = Pair.of(before_P, after_P, n)
    low, high = pair.limits(quantile(len(before_P)))
    return Interval(pair.gain, low, high)


def p_value(before_P: Sequence[float], after_P: Sequence[float], n: float) -> float:
    """Two-sided, of no gain: 1 minus the level of the interval of `gain` that 0 is the limit of."""
    pair = Pair.of(before_P, after_P, n)
    if pair.gain == 0 or len(before_P) < 2:
        return 1.0

    def nearest(z: float) -> float:
        low, high = pair.limits(z)
        return low if pair.gain > 0 else -high

    z = float(brentq(nearest, 0.0, FURTHEST)) if nearest(FURTHEST) < 0 else FURTHEST
    return float(2 * t.sf(z, len(before_P) - 1))


def detectable(before_P: Sequence[float], after_P: Sequence[float], n: float) -> float:
    """The smallest gain that 80 of 100 evaluations of as many problems would show, if it spread as this one does."""
    pair, problems = Pair.of(before_P, after_P, n), len(before_P)
    if problems < 2:
        return 1.0
    both = quantile(problems) + float(t.ppf(POWER, problems - 1))
    return min(1.0, both * sqrt(max(0.0, pair.before.variance + pair.after.variance - 2 * pair.covariance)))


@dataclass(frozen=True)
class Pair:
    """Two models on the same problems."""

    before: Rates
    after: Rates
    covariance: float
    """Of the two means."""

    @classmethod
    def of(cls, before_P: Sequence[float], after_P: Sequence[float], n: float) -> "Pair":
        before, after = Rates.of(before_P, n), Rates.of(after_P, n)
        problems = len(before_P)
        covariance = float(np.cov(before_P, after_P)[0, 1]) / problems if problems > 1 else 0.0
        # A correlation found on few problems is taken for smaller, as Student's quantile takes a deviation for larger.
        return cls(before, after, covariance * problems / (problems + 2))

    @property
    def gain(self) -> float:
        return self.after.mean - self.before.mean

    def limits(self, z: float) -> tuple[float, float]:
        spread = sqrt(self.before.variance * self.after.variance)
        correlation = min(1.0, max(-1.0, self.covariance / spread)) if spread > 0 else 0.0
        (low_1, high_1), (low_2, high_2) = self.before.wilson(z), self.after.wilson(z)
        down = side(self.after.mean - low_2, high_1 - self.before.mean, correlation)
        up = side(high_2 - self.after.mean, self.before.mean - low_1, correlation)
        return max(-1.0, self.gain - down), min(1.0, self.gain + up)


def side(one: float, other: float, cosine: float) -> float:
    """The third side of a triangle."""
    return sqrt(max(0.0, one * one + other * other - 2 * cosine * one * other))


def verdict(gain: Interval, problems: int) -> Verdict:
    """Improved or regressed only if the whole interval says so, and never of few problems."""
    if problems < FEWEST:
        return "too few problems"
    if gain.low > 0:
        return "improved"
    return "regressed" if gain.high < 0 else "indistinguishable"


@dataclass(frozen=True)
class Comparison(Interval):
    """The gain of one model over another on the same problems."""

    p_value: float
    detectable: float
    verdict: Verdict

    def claim(self, problems: int, n: int) -> str:
        """What a person is told."""
        limits, size = f"[{self.low:+.3f}, {self.high:+.3f}]", f"{problems} problems x {n} samples"
        shown = f"which show a gain of {self.detectable:.3f} four times in five"
        return f"{self.mean:+.3f} {limits}, paired p {self.p_value:.2g}, {size}, {shown}"


def compared(before_P: Sequence[float], after_P: Sequence[float], n: int) -> Comparison:
    found = gain(before_P, after_P, n)
    return Comparison(
        **vars(found),
        p_value=p_value(before_P, after_P, n),
        detectable=detectable(before_P, after_P, n),
        verdict=verdict(found, len(before_P)),
    )


# ---------------------------------------------------------------------------------------------------------------------
# One problem


def pass_at_k(right: int, n: int, k: int) -> float:
    """The chance that one of k completions drawn from these n is right (Chen et al. 2021, arXiv:2107.03374)."""
    return 1 - comb(n - right, k) / comb(n, k)
