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
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from posttrain.grpo.health import GENERATED, SAMPLING, TIMEOUTS
from posttrain.training.trl import RolloutBatch

EQUAL = 1e-9
"""Totals closer than this are the same; a reward that differs does so by more."""

ROUNDS, REPLACED = f"{SAMPLING}rounds", f"{SAMPLING}replaced_frac"
SAMPLED = f"{SAMPLING}reward/{{}}"


class SparePrompts(TrainerCallback):
    """Which problems further rounds take: another order of all of them in each epoch, the position counted on.

    A callback, because the state of callbacks is part of what a killed run goes on from.
    """

    resume_key = "spare_prompts"

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


class Generator(Protocol):
    """What is needed of a trainer; posttrain/training/trl.py's has it."""

    num_generations: int
    reward_weights: torch.Tensor
    reward_func_names: list[str]
    multi_objective_aggregation: str
    accelerator: Any
    train_dataset: Any

    def roll_out(self, examples: list[dict[str, Any]]) -> RolloutBatch: ...

    def metrics_aside(self) -> AbstractContextManager[dict[str, list[float]]]: ...

    def add_metric(self, name: str, value: float) -> None: ...


class DynamicSampling:
    """Draws batches for a trainer. Without further rounds, `max_rounds` 0, there is nothing to do."""

    def __init__(self, spare: SparePrompts) -> None:
        self.spare = spare

    def __bool__(self) -> bool:
        return self.spare.max_rounds > 0

    def draw(self, trainer: Generator, inputs: list[dict[str, Any]]) -> RolloutBatch:
        """The first round and those that further it, and the metrics of sampling."""
        with trainer.metrics_aside() as aside:
            batch = trainer.roll_out(inputs)
            rounds = [batch.rewards]
            replaced = 0
            while (flat := flat_groups(trainer, batch.rewards)) and len(rounds) <= self.spare.max_rounds:
                fresh = trainer.roll_out(self.further(trainer, len(flat)))
                rounds.append(fresh.rewards)
                dull = set(flat_groups(trainer, fresh.rewards))
                good = [group for group in range(len(fresh.rewards) // trainer.num_generations) if group not in dull]
                batch = with_groups(trainer, batch, fresh, dict(zip(flat, good, strict=False)))
                replaced += min(len(flat), len(good))
        log_sampling(trainer, rounds, replaced * trainer.num_generations / len(batch.rewards), aside)
        return batch

    def further(self, trainer: Generator, groups: int) -> list[dict[str, Any]]:
        """This process's share of the examples of at least so many groups, as many more as make the shares equal."""
        processes, size = trainer.accelerator.num_processes, trainer.num_generations
        unit = processes // math.gcd(processes, size)
        drawn = self.spare.draw(-(-groups // unit) * unit)
        share = len(drawn) * size // processes
        first = trainer.accelerator.process_index * share
        return [trainer.train_dataset[drawn[place // size]] for place in range(first, first + share)]


def flat_groups(trainer: Generator, rewards: torch.Tensor) -> list[int]:
    """The groups whose completions teach nothing."""
    if trainer.multi_objective_aggregation == "sum_then_normalize":
        scores = totals(rewards, trainer.reward_weights).unsqueeze(1)
    else:  # every reward is normalised by itself, so one with spread is enough
        scores = weighted(rewards, trainer.reward_weights)
    return without_spread(scores, trainer.num_generations)


def with_groups(trainer: Generator, batch: RolloutBatch, fresh: RolloutBatch, groups: dict[int, int]) -> RolloutBatch:
    """The batch with groups (its own: the fresh one) replaced, wherever their completions were generated."""
    everybodys = gather_object(fresh.rollouts)
    first = trainer.accelerator.process_index * len(batch.rollouts)
    rollouts, rewards = list(batch.rollouts), batch.rewards.clone()
    for old, new in places(groups, trainer.num_generations):
        rewards[old] = fresh.rewards[new]
        if 0 <= old - first < len(rollouts):
            rollouts[old - first] = everybodys[new]
    return RolloutBatch(rollouts, rewards)


def log_sampling(
    trainer: Generator, rounds: list[torch.Tensor], replaced_frac: float, aside: dict[str, list[float]]
) -> None:
    generated = torch.cat(rounds).double()
    values = {ROUNDS: len(rounds) - 1.0, REPLACED: replaced_frac, GENERATED: float(len(generated))}
    values |= {TIMEOUTS: sum(aside[TIMEOUTS])} if TIMEOUTS in aside else {}
    for place, name in enumerate(trainer.reward_func_names):
        values[SAMPLED.format(name)] = generated[:, place].nanmean().item()
    values[SAMPLED.format("total")] = totals(generated, trainer.reward_weights).nanmean().item()
    for name, value in values.items():
        trainer.add_metric(name, value)


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
