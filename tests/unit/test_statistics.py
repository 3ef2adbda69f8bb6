"""Intervals, the paired gain, its p-value and verdict, and pass@k: by hand, by scipy, and by simulation."""

import itertools
from math import sqrt

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from benchmarks.coverage import paired, single
from posttrain.evaluation.statistics import (
    FEWEST,
    Interval,
    Pair,
    Rates,
    detectable,
    gain,
    interval,
    p_value,
    pass_at_k,
    verdict,
)

Z = float(norm.ppf(0.975))


# ---------------------------------------------------------------------------------------------------------------------
# One model


@pytest.mark.parametrize(("right", "problems"), [(0, 10), (1, 40), (13, 40), (39, 40), (40, 40), (130, 1319)])
def test_single_completions_have_wilsons_interval(right: int, problems: int) -> None:
    rates = Rates.of([1.0] * right + [0.0] * (problems - right), 1)
    expected = binomtest(right, problems).proportion_ci(method="wilson")
    assert rates.wilson(Z) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_problems_that_are_all_or_nothing_count_as_one_completion_each() -> None:
    once, four_times = Rates.of([1.0, 0.0, 0.0, 1.0] * 20, 1), Rates.of([1.0, 0.0, 0.0, 1.0] * 20, 4)
    assert four_times.effective == pytest.approx(once.effective, rel=0.02)


def test_problems_that_are_alike_count_with_all_their_completions() -> None:
    rates = Rates.of([0.5] * 80, 4)
    # A design effect of 1, averaged with the worst, 4, which counts as one of 80 x 4 x 0.25 + 1.
    assert rates.effective == pytest.approx(320 / ((80 * 1 + 4) / 81))


def test_none_right_of_ten_problems_is_no_certainty() -> None:
    # Wilson with Student's quantile for 9 degrees of freedom, 2.262: z**2 / (n + z**2) = 5.117 / 15.117.
    found = interval([0.0] * 10, 4)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(5.1174 / 15.1174, abs=1e-3)


def test_one_problem_says_nothing_of_others() -> None:
    found = interval([0.75], 4)
    assert found.low < 0.01
    assert found.high > 0.99
    assert gain([0.25], [0.75], 4).low < -0.4
    assert p_value([0.0], [1.0], 4) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Two models


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Method 10 of Newcombe (1998) from a table: both right, only the second, only the first, neither."""
    size = a + b + c + d
    first, second = (a + c) / size, (a + b) / size
    low_1, high_1 = binomtest(a + c, size).proportion_ci(method="wilson")
    low_2, high_2 = binomtest(a + b, size).proportion_ci(method="wilson")
    phi = (a * d - b * c) / sqrt((a + b) * (c + d) * (a + c) * (b + d))
    down = (second - low_2) ** 2 - 2 * phi * (second - low_2) * (high_1 - first) + (high_1 - first) ** 2
    up = (high_2 - second) ** 2 - 2 * phi * (high_2 - second) * (first - low_1) + (first - low_1) ** 2
    return second - first - sqrt(down), second - first + sqrt(up)


@pytest.mark.parametrize("table", [(400, 240, 40, 320), (1900, 60, 20, 20), (10, 300, 5, 700)])
def test_single_completions_have_newcombes_interval(table: tuple[int, int, int, int]) -> None:
    """Of many problems, where a correlation is taken as it is found."""
    a, b, c, d = table
    before, after = [1.0] * a + [0.0] * b + [1.0] * c + [0.0] * d, [1.0] * (a + b) + [0.0] * (c + d)
    found = Pair.of(before, after, 1).limits(Z)
    assert found == pytest.approx(newcombe(*table), abs=2e-4)


def test_the_models_change_places() -> None:
    before, after = [0.25, 0.5, 0.0, 1.0] * 10, [0.5, 0.5, 0.25, 1.0] * 10
    there, back = gain(before, after, 4), gain(after, before, 4)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert p_value(before, after, 4) == pytest.approx(p_value(after, before, 4), abs=1e-9)


def test_equal_models_have_gained_nothing() -> None:
    rates = [0.25, 0.5, 0.0, 1.0] * 10
    found = gain(rates, rates, 4)
    assert found.low < 0 == found.mean < found.high
    assert p_value(rates, rates, 4) == 1


@pytest.mark.parametrize("seed", range(40))
def test_verdict_and_p_value_say_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problems, n = int(rng.integers(FEWEST, 80)), int(rng.integers(1, 9))
    rates = rng.beta(0.6, 1.4, problems)
    before, after = rng.binomial(n, rates) / n, rng.binomial(n, np.minimum(1, rates + 0.12)) / n
    claim = verdict(gain(before, after, n), problems)
    assert (claim in ("improved", "regressed")) == (p_value(before, after, n) < 0.05)


def test_the_smallest_gain_that_shows() -> None:
    # 2.8 standard errors of the difference; about 1.3 points of 422 problems x 4 at 3 %.
    rng = np.random.default_rng(0)
    rates = rng.beta(0.06, 1.94, 422)
    before, after = rng.binomial(4, rates) / 4, rng.binomial(4, rates) / 4
    assert detectable(before, after, 4) == pytest.approx(0.013, abs=0.004)
    more = detectable([*before] * 4, [*after] * 4, 4)
    assert more == pytest.approx(detectable(before, after, 4) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("low", "high", "claim"),
    [
        (0.1, 0.3, "improved"),
        (1e-9, 0.3, "improved"),
        (0.0, 0.3, "indistinguishable"),
        (-0.1, 0.3, "indistinguishable"),
        (-0.3, 0.0, "indistinguishable"),
        (-0.3, -1e-9, "regressed"),
    ],
)
def test_a_verdict_needs_the_whole_interval_and_enough_problems(low: float, high: float, claim: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high), FEWEST) == claim
    assert verdict(Interval((low + high) / 2, low, high), FEWEST - 1) == "too few problems"


# ---------------------------------------------------------------------------------------------------------------------
# Simulated evaluations with a known truth. Of 400, a share of 0.95 has a standard error of 0.011.


@pytest.mark.parametrize("cell", [(40, 1, 0.03), (40, 4, 0.97), (100, 4, 0.03), (260, 2, 0.97), (260, 4, 0.6)])
def test_intervals_hold_where_small_models_live(cell: tuple[int, int, float]) -> None:
    assert single(400, cell) > 0.92


@pytest.mark.parametrize("second", ["same", "other", "better"])
@pytest.mark.parametrize("cell", [(20, 1, 0.6), (40, 4, 0.03), (100, 1, 0.3)])
def test_gains_hold_and_false_alarms_are_few(cell: tuple[int, int, float], second: str) -> None:
    held, claims, denied = paired(400, cell, second)
    assert held > 0.92
    assert denied == 0
    if second != "better":
        assert claims < 0.08


# ---------------------------------------------------------------------------------------------------------------------
# One problem


@pytest.mark.parametrize("n", [1, 4, 5])
def test_pass_at_k_counts_draws(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert pass_at_k(right, n, k) == pytest.approx(sum(map(any, draws)) / len(draws))
