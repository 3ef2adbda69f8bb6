"""How long completions are: of the right, the wrong and those that were cut off."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from posttrain.reporting.results import Results

KINDS = ("right", "wrong", "cut off")
BINS = 30


@dataclass(frozen=True)
class Lengths:
    """A histogram by model and kind, all with the same bins, and a line of numbers for each."""

    unit: str
    centres: list[float]
    width: int
    counts: dict[str, dict[str, list[int]]]
    rows: dict[str, dict[str, dict[str, float | None]]]

    @property
    def highest(self) -> int:
        """The most completions in a bin of any model."""
        stacks = [sum(many) for kinds in self.counts.values() for many in zip(*kinds.values(), strict=True)]
        return max(stacks, default=0)


def measured(results: Results) -> Lengths:
    """In tokens where the evaluation counted them, else in characters."""
    rows = [row[name] for row in results.held_out for name in results.models]
    unit = "tokens" if rows and all(row.get("tokens") for row in rows) else "characters"
    found = {name: by_kind([row[name] for row in results.held_out], unit) for name in results.models}
    every = [value for kinds in found.values() for values in kinds.values() for value in values] or [0]
    width = nice((max(every) - min(every)) / BINS)
    first, last = min(every) // width, max(every) // width
    return Lengths(
        unit=unit,
        centres=[number * width + (width - 1) / 2 for number in range(first, last + 1)],
        width=width,
        counts={
            name: {kind: binned(kinds[kind], width, first, last) for kind in KINDS} for name, kinds in found.items()
        },
        rows={name: {kind: numbers(kinds[kind]) for kind in KINDS} for name, kinds in found.items()},
    )


def by_kind(rows: list[dict[str, Any]], unit: str) -> dict[str, list[int]]:
    """The lengths of one model's completions."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for row in rows:
        sizes = row["tokens"] if unit == "tokens" else [len(text) for text in row["completions"]]
        for size, correct, finished in zip(sizes, row["correct"], row["finished"], strict=True):
            found["cut off" if not finished else "right" if correct > 0.5 else "wrong"].append(size)
    return found


def nice(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, …"""
    power: int = 10 ** math.floor(math.log10(max(width, 1)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)


def binned(values: list[int], width: int, first: int, last: int) -> list[int]:
    counts = Counter(value // width for value in values)
    return [counts[number] for number in range(first, last + 1)]


def numbers(values: list[int]) -> dict[str, float | None]:
    """Count, mean, median and the length that 95 % stay under."""
    if not values:
        return {"count": 0, "mean": None, "median": None, "p95": None}
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return {"count": len(ordered), "mean": sum(ordered) / len(ordered), "median": median, "p95": p95}
