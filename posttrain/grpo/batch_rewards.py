"""The rewards of params as the batch functions that TRL calls."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from posttrain.prompts import Message
from posttrain.rewards.completion import Completion, Score
from posttrain.rewards.scoring import Scoring

Batch = tuple[list[list[Message]], list[list[int]], list[int]]
"""Completions, their token ids, and the number of the row that each answers."""


class BatchRewards:
    """Scores batches of completions of `rows`. Each batch is judged once, however many rewards look at it."""

    def __init__(self, scoring: Scoring, rows: list[dict[str, Any]], group_size: int) -> None:
        self.scoring, self.rows, self.group_size = scoring, rows, group_size
        self._last: tuple[Batch, list[Completion]] | None = None

    @property
    def names(self) -> list[str]:
        return list(self.scoring.params)

    def functions(self) -> list[Callable[..., list[Score]]]:
        """One for each reward; TRL names its metrics after `__name__`."""
        return [self.function(name) for name in self.names]

    def function(self, name: str) -> Callable[..., list[Score]]:
        """Groups are whole, also where several processes hold parts of them: their completions are gathered."""

        def rewards(
            completions: list[list[Message]], completion_ids: list[list[int]], number: list[int], **_: Any
        ) -> list[Score]:
            mine = self.judged(completions, completion_ids, number)
            if not self.scoring.takes_group(name):
                return self.scoring.score(name, mine, 1)
            first = PartialState().process_index * len(mine)
            begin = first // self.group_size * self.group_size  # of the groups that this process has a part of
            end = -(-(first + len(mine)) // self.group_size) * self.group_size
            scores = self.scoring.score(name, gather_object(mine)[begin:end], self.group_size)
            return scores[first - begin : first - begin + len(mine)]

        rewards.__name__ = name
        return rewards

    def judged(
        self, completions: list[list[Message]], completion_ids: list[list[int]], numbers: list[int]
    ) -> list[Completion]:
        """The completions, judged. The last batch is remembered, because every reward asks for it."""
        batch = (completions, completion_ids, numbers)
        if self._last is None or self._last[0] != batch:
            texts = [completion[-1]["content"] for completion in completions]
            rows, lengths_T = [self.rows[number] for number in numbers], [len(ids) for ids in completion_ids]
            self._last = batch, self.scoring.completions(texts, rows, lengths_T)
        return self._last[1]

    def count_undecided(
        self, completions: list[list[Message]], completion_ids: list[list[int]], numbers: list[int]
    ) -> int:
        """Completions of this process on whose answers the verifier reached no verdict.

        Raises: InputError if that happened too often lately
        """
        judged = self.judged(completions, completion_ids, numbers)
        return self.scoring.verifier.count(completion.correct for completion in judged if completion.gold)


def leave_out_undecided(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Rewards (N, rewards) with every score of a completion NaN if one of them is and the rest of its group has it.

    TRL leaves a completion out of its group's mean, with an advantage of 0, only if all its scores are missing; one
    missing score it would count as 0. A reward without a score for the whole group says nothing about it, and no
    completion of the group is worse for that.
    """
    missing = rewards.isnan().view(-1, num_generations, rewards.shape[1])
    undecided = (missing & ~missing.all(dim=1, keepdim=True)).any(dim=2).view(-1, 1)
    return rewards.masked_fill(undecided, torch.nan)
