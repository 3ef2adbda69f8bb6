"""TRL's SFTTrainer, resumable and with steps of equal size, and its config from params."""

from pathlib import Path
from typing import Any

from torch.utils.data import RandomSampler
from trl import SFTConfig, SFTTrainer

from posttrain.launch.layout import world_size
from posttrain.params.schema import Params
from posttrain.training.batches import batch_plan
from posttrain.training.config import optimisation_kwargs
from posttrain.training.resume import Resumable
from posttrain.training.trl_options import configure

CURVE = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


SHOWN = ("loss", "token_accuracy", "learning_rate")


class Trainer(Resumable, SFTTrainer):
    """TRL's; a killed run goes on, and every step has the same number of rows.

    transformers ends an epoch with a smaller step of the rows that are left, which one process takes as they are and
    several fill up, each number of them otherwise. Here an epoch leaves out up to batch_size - 1 rows, other ones each
    time.
    """

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        if not isinstance(sampler, RandomSampler):
            return sampler
        rows, step = len(sampler.data_source), self.args.train_batch_size * self.args.gradient_accumulation_steps
        step *= self.args.world_size
        return RandomSampler(sampler.data_source, num_samples=max(1, rows // step) * step)


def trainer_config(params: Params, output_dir: Path) -> SFTConfig:
    plan = batch_plan(params.sft.batch_size, params.launch.micro_batch_size, world_size())
    return configure(
        SFTConfig,
        "sft.trl",
        params.sft.trl,
        **optimisation_kwargs(params.sft, params.seed, params.launch, output_dir),
        **plan.trainer_kwargs(),
        max_length=params.sft.max_length,
        include_num_input_tokens_seen="non_padding",
    )
