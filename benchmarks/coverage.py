"""How often intervals of an evaluation hold, and a verdict is a false alarm: the tables of docs/evaluation.md.

Rates of problems are drawn from Beta(2m, 2 - 2m), whose mean m is the truth, and completions from the rates. The second
model has the rates of the first (`same`), others of the same mean (`other`), or those of the first with a gain of 2 in
the logit (`better`), whose truth is the mean over ten million rates.

    python benchmarks/coverage.py [--runs 2000]
"""

import argparse
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from posttrain.evaluation.statistics import Interval, gain, interval, p_value, verdict

CELLS = [
    *((40, n, mean) for n in (1, 4) for mean in (0.03, 0.3, 0.6, 0.97)),
    *((100, n, mean) for n in (1, 2, 4) for mean in (0.03, 0.97)),
    *((260, n, mean) for n in (1, 2, 4) for mean in (0.03, 0.3, 0.6, 0.97)),
    *((1319, 4, mean) for mean in (0.03, 0.6)),
]
PAIRS = [(problems, n, mean) for problems in (20, 40, 100, 260) for n in (1, 2, 4) for mean in (0.03, 0.3, 0.6, 0.97)]
SECOND = ("same", "other", "better")
LIFT = 2.0


def rates(rng: np.random.Generator, mean: float, problems: int) -> np.ndarray:
    return rng.beta(2 * mean, 2 - 2 * mean, problems)


def lifted(rates: np.ndarray) -> np.ndarray:
    odds = np.exp(LIFT) * rates / np.maximum(1 - rates, 1e-300)
    return odds / (1 + odds)


def pairs(runs: int, cell: tuple[int, int, float], second: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rates of right completions of both models."""
    problems, n, mean = cell
    rng = np.random.default_rng([problems, n, int(100 * mean), SECOND.index(second)])
    make: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "same": lambda first: first,
        "other": lambda first: rates(rng, mean, problems),
        "better": lifted,
    }
    for _ in range(runs):
        first = rates(rng, mean, problems)
        yield rng.binomial(n, first) / n, rng.binomial(n, make[second](first)) / n


@lru_cache
def truth(mean: float, second: str) -> float:
    if second != "better":
        return 0.0
    first = rates(np.random.default_rng(0), mean, 10_000_000)
    return float((lifted(first) - first).mean())


def holds(found: Interval, true: float) -> bool:
    return found.low - 1e-12 <= true <= found.high + 1e-12


def single(runs: int, cell: tuple[int, int, float]) -> float:
    """The share of intervals of pass@1 that hold the truth."""
    found = [interval(first, cell[1]) for first, _ in pairs(runs, cell, "same")]
    return float(np.mean([holds(one, cell[2]) for one in found]))


def paired(runs: int, cell: tuple[int, int, float], second: str) -> tuple[float, float, int]:
    """The share of intervals of the gain that hold the truth, of verdicts, and how many verdicts p denies."""
    problems, n, mean = cell
    true, held, claims, denied = truth(mean, second), 0, 0, 0
    for before, after in pairs(runs, cell, second):
        found = gain(before, after, n)
        claim = verdict(found, problems) in ("improved", "regressed")
        held += holds(found, true)
        claims += claim
        denied += claim != (p_value(before, after, n) < 0.05)
    return held / runs, claims / runs, denied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated evaluations of a cell")
    runs = parser.parse_args().runs
    print(f"| P | n | mean | pass@1 holds ({runs} runs) |\n|---|---|---|---|")
    for cell in CELLS:
        print(f"| {' | '.join(map(str, cell))} | {single(runs, cell):.3f} |", flush=True)
    print("\n| P | n | mean | same: holds, false alarms | other: holds, false alarms | better: holds, found | denied |")
    print("|---|---|---|---|---|---|---|")
    for cell in PAIRS:
        found = [paired(runs, cell, second) for second in SECOND]
        columns = [f"{held:.3f}, {claims:.3f}" for held, claims, _ in found]
        print(f"| {' | '.join(map(str, cell))} | {' | '.join(columns)} | {sum(d for *_, d in found)} |", flush=True)


if __name__ == "__main__":
    main()
