"""Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): groups that teach nothing make room for others.

The advantages of a group whose completions all got the same reward are 0. Groups of other problems take their place,
until every group of the batch has spread or `grpo.dynamic_sampling.max_rounds` is spent; those left over stay.

Completions are drawn and scored first. TRL then works on the batch as it will be trained on, and gets its completions
and rewards from here; so padding, advantages, the reference's log-probabilities and every metric are TRL's, once a
batch. The mean reward of groups that were kept for their spread is biased towards the middle; `sampling/reward/...` is
the mean over all completions generated. (The number of rounds depends on the first, so that is a ratio estimate, biased
too, but by a few thousandths.)

Several processes hold parts of a group. Whatever decides is made of gathered rewards, so every process takes the same
rounds and generates an equal share of each.

Not for tools, environments or images, of which this project uses none.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl import GRPOTrainer

from posttrain.grpo.health import GENERATED, SAMPLING, TIMEOUTS

EQUAL = 1e-9
"""Totals closer than this are the same; a reward that differs does so by more."""

ROUNDS, REPLACED = f"{SAMPLING}rounds", f"{SAMPLING}replaced_frac"
SAMPLED = f"{SAMPLING}reward/{{}}"


class SparePrompts(TrainerCallback):
    """Which problems further rounds take: another order of all of them in each epoch, the position counted on.

    A callback, because the state of callbacks is part of what a killed run goes on from.
    """

    def __init__(self, problems: int, seed: int, max_rounds: int) -> None:
        self.problems, self.seed, self.max_rounds = problems, seed, max_rounds
        self.drawn = 0

    def draw(self, count: int) -> list[int]:
        positions = range(self.drawn, self.drawn + count)
        self.drawn += count
        return [order(self.problems, self.seed, at // self.problems)[at % self.problems] for at in positions]

    def resume_state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


@lru_cache(maxsize=2)
def order(problems: int, seed: int, epoch: int) -> list[int]:
    """A permutation that owes nothing to any generator's state, nor is it the order that TRL draws from the seed."""
    digest = hashlib.sha256(f"spare/{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randperm(problems, generator=generator).tolist()


@dataclass(frozen=True)
class Rollout:
    """One completion, and the example that it answers."""

    example: dict[str, Any]
    ids: list[int]
    logprobs: list[float] | None
    """Of the tokens, from generators that say them."""
    completion: Any


@dataclass(frozen=True)
class Batch:
    """A process's share of the completions, and the rewards (N, rewards) of all processes."""

    rollouts: list[Rollout]
    rewards: torch.Tensor


class DynamicSampling(GRPOTrainer):
    """Goes before a GRPOTrainer among the bases of a class. With `max_rounds` 0 nothing is changed."""

    spare: SparePrompts
    _drawn: Batch | None = None
    """What TRL is given instead of generating and scoring."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not (self.spare.max_rounds and self.model.training):
            return super()._generate_and_score_completions(inputs)
        self._drawn = self._draw(inputs)
        try:
            return super()._generate_and_score_completions([rollout.example for rollout in self._drawn.rollouts])
        finally:
            self._drawn = None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], list[list[float]] | None]:
        if self._drawn is None:
            return super()._generate_single_turn(*args, **kwargs)
        logprobs = [rollout.logprobs for rollout in self._drawn.rollouts if rollout.logprobs is not None]
        return [rollout.ids for rollout in self._drawn.rollouts], logprobs or None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super()._calculate_rewards(*args, **kwargs) if self._drawn is None else self._drawn.rewards

    def _draw(self, inputs: list[dict[str, Any]]) -> Batch:
        """The first round and those that further it, and the metrics of sampling."""
        with self._metrics_aside() as aside:
            batch = self._roll_out(inputs)
            rounds = [batch.rewards]
            replaced = 0
            while (flat := self._without_spread(batch.rewards)) and len(rounds) <= self.spare.max_rounds:
                fresh = self._roll_out(self._further(len(flat)))
                rounds.append(fresh.rewards)
                dull = set(self._without_spread(fresh.rewards))
                good = [group for group in range(len(fresh.rewards) // self.num_generations) if group not in dull]
                batch = self._put(batch, fresh, dict(zip(flat, good, strict=False)))
                replaced += min(len(flat), len(good))
        self._log_sampling(rounds, replaced * self.num_generations / len(batch.rewards), aside)
        return batch

    def _roll_out(self, examples: list[dict[str, Any]]) -> Batch:
        """Generate and score one completion for each example of this process."""
        prompts = [example["prompt"] for example in examples]
        _, ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(examples, prompts, completions, ids)
        logprobs = logprobs or [None] * len(ids)
        return Batch([Rollout(*each) for each in zip(examples, ids, logprobs, completions, strict=True)], rewards)

    def _without_spread(self, rewards: torch.Tensor) -> list[int]:
        if self.multi_objective_aggregation == "sum_then_normalize":
            scores = totals(rewards, self.reward_weights).unsqueeze(1)
        else:  # every reward is normalised by itself, so one with spread is enough
            scores = weighted(rewards, self.reward_weights)
        return without_spread(scores, self.num_generations)

    def _further(self, groups: int) -> list[dict[str, Any]]:
        """This process's share of the examples of at least so many groups, as many more as make the shares equal."""
        processes, size = self.accelerator.num_processes, self.num_generations
        unit = processes // math.gcd(processes, size)
        drawn = self.spare.draw(-(-groups // unit) * unit)
        share = len(drawn) * size // processes
        first = self.accelerator.process_index * share
        return [self.train_dataset[drawn[place // size]] for place in range(first, first + share)]

    def _put(self, batch: Batch, fresh: Batch, groups: dict[int, int]) -> Batch:
        """The batch with groups (its own: the fresh one) replaced, wherever their completions were generated."""
        everybodys = gather_object(fresh.rollouts)
        first = self.accelerator.process_index * len(batch.rollouts)
        rollouts, rewards = list(batch.rollouts), batch.rewards.clone()
        for old, new in places(groups, self.num_generations):
            rewards[old] = fresh.rewards[new]
            if 0 <= old - first < len(rollouts):
                rollouts[old - first] = everybodys[new]
        return replace(batch, rollouts=rollouts, rewards=rewards)

    @contextmanager
    def _metrics_aside(self) -> Iterator[dict[str, list[float]]]:
        """What TRL counts meanwhile, instead of among its metrics: it will count again the batch that is trained on."""
        kept, seen = self._metrics["train"], self.state.num_input_tokens_seen
        aside: dict[str, list[float]] = defaultdict(list)
        self._metrics["train"] = aside
        try:
            yield aside
        finally:
            self._metrics["train"], self.state.num_input_tokens_seen = kept, seen

    def _log_sampling(self, rounds: list[torch.Tensor], replaced_frac: float, aside: dict[str, list[float]]) -> None:
        generated = torch.cat(rounds).double()
        values = {ROUNDS: len(rounds) - 1.0, REPLACED: replaced_frac, GENERATED: float(len(generated))}
        values |= {TIMEOUTS: sum(aside[TIMEOUTS])} if TIMEOUTS in aside else {}
        for place, name in enumerate(self.reward_func_names):
            values[SAMPLED.format(name)] = generated[:, place].nanmean().item()
        values[SAMPLED.format("total")] = totals(generated, self.reward_weights).nanmean().item()
        for name, value in values.items():
            self._metrics["train"][name].append(value)


def weighted(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return rewards.double() * weights.to(rewards.device, torch.float64)


def totals(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of each row of (N, rewards), nan without any score."""
    missing = rewards.isnan().all(dim=1)
    return weighted(rewards, weights).nansum(dim=1).masked_fill(missing, torch.nan)


def without_spread(scores: torch.Tensor, size: int) -> list[int]:
    """The groups of `size` rows in which no column of (N, columns) has two different scores; nan is none."""
    groups = scores.view(-1, size, scores.shape[1])
    highest = groups.nan_to_num(nan=-math.inf).amax(dim=1)
    lowest = groups.nan_to_num(nan=math.inf).amin(dim=1)
    return (highest - lowest <= EQUAL).all(dim=1).nonzero().flatten().tolist()


def places(groups: dict[int, int], size: int) -> Iterator[tuple[int, int]]:
    """The rows of groups of `size`: old and new, pair by pair."""
    for old, new in groups.items():
        for place in range(size):
            yield old * size + place, new * size + place
