"""TRL's GRPOTrainer as posttrain uses it, its config from params, and the rewards as the functions that it calls."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from posttrain.grpo.dynamic import DynamicSampling
from posttrain.grpo.health import TIMEOUTS
from posttrain.launch.layout import world_size
from posttrain.params.schema import Optimisation, Params
from posttrain.prompts import Message, prompt_messages
from posttrain.rewards.scoring import Completion, Score, Scoring
from posttrain.training.batches import batch_plan
from posttrain.training.config import optimisation_kwargs
from posttrain.training.models import DTYPES
from posttrain.training.resume import Resumable
from posttrain.training.trl_options import configure
from posttrain.vllm.rollouts import trainer_kwargs

OURS = {
    *Optimisation.model_fields,
    *("prompts_per_step", "probe", "publish", "health", "dynamic_sampling", "trl", "keep_completions_steps"),
}
"""Keys of the `grpo` section that do not go to TRL by `model_dump`."""


class Trainer(Resumable, GRPOTrainer):
    """TRL's trainer: a killed run goes on, and a completion may have no verdict."""

    scoring: Scoring
    rows: list[dict[str, Any]]

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[list[Message]],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        numbers = [example["number"] for example in inputs]
        batch = to_completions(self.scoring, self.rows, numbers, completions, completion_ids_list)
        lost = self.scoring.verifier.count(completion.correct for completion in batch if completion.gold)
        self._metrics["train"][TIMEOUTS].append(float(sum(gather_object([lost]))))
        return leave_out_undecided(rewards, self.num_generations)


class DynamicTrainer(DynamicSampling, Trainer):
    """With groups that have no spread replaced, if params ask for it."""


def leave_out_undecided(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Rewards (N, rewards) with every score of a completion NaN if one of them is and the rest of its group has it.

    TRL leaves a completion out of its group's mean, with an advantage of 0, only if all its scores are missing; one
    missing score it would count as 0. A reward without a score for the whole group says nothing about it, and no
    completion of the group is worse for that.
    """
    missing = rewards.isnan().view(-1, num_generations, rewards.shape[1])
    undecided = (missing & ~missing.all(dim=1, keepdim=True)).any(dim=2).view(-1, 1)
    return rewards.masked_fill(undecided, torch.nan)


def to_dataset(rows: list[dict[str, Any]], params: Params) -> Dataset:
    """Prompts, each with the number of its row: rows hold what fits no table."""
    return Dataset.from_list(
        [
            {"prompt": prompt_messages(row["problem"], params.prompts.system), "number": number}
            for number, row in enumerate(rows)
        ]
    )


def trainer_config(params: Params, output_dir: Path) -> GRPOConfig:
    grpo = params.grpo
    plan = batch_plan(grpo.prompts_per_step * grpo.num_generations, params.launch.micro_batch_size, world_size())
    return configure(
        GRPOConfig,
        "grpo.trl",
        grpo.trl,
        **optimisation_kwargs(grpo, params.seed, params.launch, output_dir),
        **plan.trainer_kwargs(),
        **grpo.model_dump(exclude=OURS),
        reward_weights=[reward.weight for reward in params.rewards.named().values()],
        model_init_kwargs={"dtype": DTYPES[params.model.dtype]},
        trust_remote_code=params.model.trust_remote_code,
        **trainer_kwargs(params),
    )


def reward_function(name: str, scoring: Scoring, rows: list[dict[str, Any]], group_size: int) -> Any:
    """One reward as the batch function that TRL calls; TRL names its metrics after `__name__`.

    Groups are whole, also where several processes hold parts of them: their completions are gathered in TRL's order.
    """

    def rewards(
        completions: list[list[Message]], completion_ids: list[list[int]], number: list[int], **_: Any
    ) -> list[Score]:
        mine = to_completions(scoring, rows, number, completions, completion_ids)
        if not scoring.takes_group(name):
            return scoring.score(name, mine, 1)
        scores = scoring.score(name, gather_object(mine), group_size)
        first = PartialState().process_index * len(mine)
        return scores[first : first + len(mine)]

    rewards.__name__ = name
    return rewards


def to_completions(
    scoring: Scoring,
    rows: list[dict[str, Any]],
    numbers: list[int],
    completions: list[list[Message]],
    completion_ids: list[list[int]],
) -> list[Completion]:
    texts = [completion[-1]["content"] for completion in completions]
    return scoring.completions(texts, [rows[number] for number in numbers], [len(ids) for ids in completion_ids])
