"""Shares of several sources: the largest mixture that has them, chosen by a hash of each problem."""

import math
from typing import TYPE_CHECKING

from posttrain.data.problems import key_of

if TYPE_CHECKING:
    from datasets import Dataset


def sizes(available: list[int], weights: list[float]) -> list[int]:
    """Rows of each source, as many as the weights' shares allow; the scarcest source is taken whole."""
    total = min(number / weight for number, weight in zip(available, weights, strict=True))
    # A product may come out a hair below the whole number that it is.
    return [min(number, math.floor(total * w + 1e-9)) for number, w in zip(available, weights, strict=True)]


def mixed(parts: list["Dataset"], weights: list[float]) -> list["Dataset"]:
    """The chosen rows of each source, in their order, with its faulty rows, which count for no share."""
    usable = [[n for n, fault in enumerate(part["fault"]) if fault is None] for part in parts]
    wanted = sizes([len(rows) for rows in usable], weights)
    return [_chosen(part, rows, size) for part, rows, size in zip(parts, usable, wanted, strict=True)]


def _chosen(part: "Dataset", usable: list[int], size: int) -> "Dataset":
    keys = {}
    problems = part.select_columns(["problem"])
    for number in usable:
        keys[number] = key_of(problems[number]["problem"])
    first = set(sorted(usable, key=lambda number: (keys[number], number))[:size])
    left_out = keys.keys() - first
    return part.select([number for number in range(len(part)) if number not in left_out])
