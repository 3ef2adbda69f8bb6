"""TRL's SFTTrainer, resumable and with steps of equal size, and its config from params."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from posttrain.launch.layout import world_size
from posttrain.params.schema import Params
from posttrain.training.batches import batch_plan
from posttrain.training.config import optimisation_kwargs
from posttrain.training.curve import Curve
from posttrain.training.lora import adapter_config
from posttrain.training.resume import Resume
from posttrain.training.tracked import Tracked
from posttrain.training.trl import SFTTrainer
from posttrain.training.trl_options import configure

CURVE = {
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


SHOWN = ("loss", "token_accuracy", "learning_rate")


def curve() -> Curve:
    """One without rows, which is all that a model that is not trained has."""
    return Curve("sft", CURVE, SHOWN)


class Trainer(SFTTrainer):
    """TRL's; a killed run goes on, and every step has the same number of rows."""

    def __init__(
        self,
        params: Params,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        args: SFTConfig,
        *,
        resume: Resume | None = None,
    ) -> None:
        self.curve = curve()
        self.tracked = Tracked("sft", params, self.curve)
        super().__init__(
            model=model,
            args=args,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[self.curve, self.tracked],
            peft_config=adapter_config(params),
            resume=resume,
        )

    def some_ids(self) -> list[int]:
        ids: list[int] = self.train_dataset[0]["input_ids"]
        return ids

    def train_sampler(self, sampler: Any) -> Any:
        """One that leaves out up to batch_size - 1 rows an epoch, other ones each time.

        transformers ends an epoch with a smaller step of the rows that are left, which one process takes as they are
        and several fill up, each number of them otherwise.
        """
        if not isinstance(sampler, RandomSampler):
            return sampler
        rows, step = len(sampler.data_source), self.args.train_batch_size * self.args.gradient_accumulation_steps
        step *= self.args.world_size
        return RandomSampler(sampler.data_source, num_samples=max(1, rows // step) * step)

    def metrics(self) -> dict[str, Any]:
        """Means over the last tenth of the run, and what was seen."""
        return {
            "loss": self.curve.mean("loss", 0.9, 1),
            "token_accuracy": self.curve.mean("token_accuracy", 0.9, 1),
            "tokens_seen": int(self.state.num_input_tokens_seen),
        }


def trainer_config(params: Params, output_dir: Path) -> SFTConfig:
    sft = params.require_sft()
    plan = batch_plan(sft.batch_size, params.launch.micro_batch_size, world_size())
    return configure(
        SFTConfig,
        "sft.trl",
        sft.trl,
        **optimisation_kwargs(sft, params.seed, params.launch, output_dir),
        **plan.trainer_kwargs(),
        # The rows are ready; TRL would take seconds to find that out.
        dataset_kwargs={"skip_prepare_dataset": not sft.trl.get("packing", False)},
        max_length=sft.max_length,
        include_num_input_tokens_seen="non_padding",
    )
