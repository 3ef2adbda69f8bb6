"""What a reward may look at. Standard library only, so that a worker process starts fast."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Completion:
    """One sampled answer to one problem."""

    text: str
    """Text as sampled, special tokens left out."""
    gold: str = ""
    """The correct answer; empty if the data have none."""
    problem: str = ""
    tokens: int = 0
    """Length as sampled, in tokens."""
    correct: bool | None = None
    """The verifier's verdict; None if it reached none (time-out, crash, no gold)."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The row of data/prepared, with the columns that `prepare.columns.keep` names."""


Score = float | None
"""None is no verdict: the completion is left out of its group's statistics. It is never a silent 0."""

Reward = Callable[..., Any]
"""f(completion, **parameters) -> Score, or f(group, **parameters) -> list[Score]: the first one's name decides."""
