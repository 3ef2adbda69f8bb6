"""What a run says that moved few weights or none: a model that looks trained and is not."""

from collections.abc import Mapping
from typing import Any

METRIC = "weights_changed_frac"
FEW = 0.05
"""A smaller share of changed weights is worth a line: training in float32 changes nearly all."""


def standstill(metrics: Mapping[str, Any], parent: str) -> str | None:
    """What to say of a run that moved few weights or none; None of any other."""
    frac = metrics.get(METRIC, 1.0)
    if frac >= FEW:
        return None
    causes = "no reward differed within its group, or updates are below the resolution of model.dtype"
    if frac == 0:
        return f"NO WEIGHT MOVED: the model is {parent}; {causes}"
    return f"ONLY {frac:.2%} OF THE WEIGHTS MOVED from {parent}; {causes}"
