"""Verifiable rewards: pure functions of a completion or of a group. Your own ones use `Completion` and `Score`."""

from posttrain.rewards.completion import Completion, Score

__all__ = ["Completion", "Score"]
