"""TRL's GRPOTrainer with what watches it, and its config from params."""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig

from posttrain.generation.copied import Copied
from posttrain.grpo.batch_rewards import BatchRewards, leave_out_undecided
from posttrain.grpo.curve import GRPOCurve
from posttrain.grpo.dynamic import DynamicSampling, SparePrompts
from posttrain.grpo.health import TIMEOUTS
from posttrain.grpo.log_probs import LogProbs
from posttrain.grpo.passes import order_is_free, whole_groups
from posttrain.grpo.records import KeptCompletions, StepClock, Stopwatch
from posttrain.grpo.samples import probe_accuracy, sample_rows
from posttrain.grpo.shared_prompt import obstacle, share_prompts
from posttrain.grpo.watch import HealthWatch, ProbeWatch, finalize
from posttrain.launch.layout import is_main, layout, world_size
from posttrain.params.schema import Optimisation, Params
from posttrain.prompts import prompt_messages
from posttrain.templates import opened, render
from posttrain.training.batches import batch_plan
from posttrain.training.config import optimisation_kwargs
from posttrain.training.divergence import Diverged, diverged
from posttrain.training.export import gathered_model
from posttrain.training.lora import adapter_config, loading
from posttrain.training.models import DTYPES, align_special_tokens
from posttrain.training.resume import Resume
from posttrain.training.tracked import Tracked
from posttrain.training.trl import GRPOTrainer
from posttrain.training.trl_options import configure
from posttrain.vllm.rollouts import reseed, trainer_kwargs

OURS = {
    *Optimisation.model_fields,
    *(
        "prompts_per_step",
        "probe",
        "publish",
        "health",
        "dynamic_sampling",
        "difficulty",
        "trl",
        "keep_completions_steps",
        "generation_dtype",
    ),
}
"""Keys of the `grpo` section that do not go to TRL by `model_dump`."""


class Trainer(GRPOTrainer):
    """Trains on the rows of `rewards`; a killed run goes on, and a completion may have no verdict.

    `probed` are rows that no step trains on; `callbacks` come before posttrain's own.
    """

    def __init__(
        self,
        params: Params,
        model: Path,
        tokenizer: PreTrainedTokenizerBase,
        rewards: BatchRewards,
        args: GRPOConfig,
        *,
        probed: list[dict[str, Any]] | None = None,
        resume: Resume | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        grpo, rows = params.grpo, rewards.rows
        if grpo.generation_dtype not in (None, params.model.dtype):
            self.copied = Copied(DTYPES[grpo.generation_dtype])
        self.params, self.rewards, self.probed = params, rewards, probed or []
        self.stopwatch = Stopwatch()
        self.sampling = DynamicSampling(SparePrompts(len(rows), params.seed, grpo.dynamic_sampling.max_rounds))
        self.curve = GRPOCurve(rewards.names, self.last_batch)
        self.probe = ProbeWatch(grpo, self.solve_probe)
        self.health = HealthWatch(params, self.curve, prompt_ids(rows[0], tokenizer, params), self.diverged)
        self.tracked = Tracked("grpo", params, self.curve, lambda: self.health.findings)
        self.kept = KeptCompletions(grpo.keep_completions_steps, rewards.names, self.last_batch)
        super().__init__(
            model=str(model),  # TRL loads it twice: the policy, and the reference of the KL divergence
            reward_funcs=rewards.functions(),
            args=args,
            train_dataset=to_dataset(rows, params),
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), *self.watchers()],
            peft_config=adapter_config(params),
            resume=resume,
            **loading(params),
        )
        reseed(params, self.accelerator.process_index)
        align_special_tokens(self.model, tokenizer)
        self.end_only_at(tokenizer.eos_token_id)
        self.scorer = self.log_prob_scorer()

    def watchers(self) -> list[TrainerCallback]:
        """In the order in which they are told: the probe adds a column, the curve makes the row that health reads."""
        clock = StepClock("grpo", self.stopwatch)
        return [self.probe, self.curve, self.health, self.sampling.spare, self.kept, clock, self.tracked]

    def some_ids(self) -> list[int]:
        return self.health.ids

    def step_is_known(self, loss: torch.Tensor, norm: Any) -> None:
        """A run that rolls back takes the step; the health monitor sees what it did to the weights."""
        if self.params.grpo.health.not_finite.action == "stop":
            super().step_is_known(loss, norm)

    def diverged(self, step: int, saw: str) -> Diverged:
        return diverged(self, step, f"health rule not_finite: {saw}")

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.sampling and self.model.training:
            return self.score(self.sampling.draw(self, inputs))
        return super().generate_and_score(inputs)

    def generate(self, prompts: list[Any]) -> Any:
        """What TRL returns; each completion begins with what its prompt has opened, its tokens are the model's own."""
        with self.stopwatch.measure("generate"):
            prompt_ids, ids, mask, completions, *rest = super().generate(prompts)
        asked = {prompt[-1]["content"]: prompt for prompt in prompts}  # a group has one prompt
        begun = {problem: opened(render(self.processing_class, prompt), problem) for problem, prompt in asked.items()}
        for prompt, completion in zip(prompts, completions, strict=True):
            completion[-1]["content"] = begun[prompt[-1]["content"]] + completion[-1]["content"]
        return prompt_ids, ids, mask, completions, *rest

    def calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], ids: list[list[int]]
    ) -> torch.Tensor:
        with self.stopwatch.measure("reward"):
            rewards = super().calculate_rewards(inputs, prompts, completions, ids)
            undecided = self.rewards.count_undecided(completions, ids, [example["number"] for example in inputs])
            self.add_metric(TIMEOUTS, float(sum(gather_object([undecided]))))
            return leave_out_undecided(rewards, self.num_generations)

    def log_prob_scorer(self) -> LogProbs:
        """What computes log-probabilities; says why, if it cannot share prompts."""
        models = [model for model in (self.model, self.ref_model) if model is not None]
        strategy, alone = layout(self.params.launch).strategy, ("single", "ddp", "zero2")
        why = obstacle(plain(self.model), fsdp=strategy == "fsdp", recomputes=self.args.activation_checkpointing)
        if why is None:
            for model in models:
                share_prompts(plain(self.accelerator.unwrap_model(model)))
        elif is_main():
            print(f"grpo | a prompt is computed once for each of its completions, not once for its group: {why}")
        skip = strategy in alone and order_is_free(self.args) and self.beta == 0
        return LogProbs(share=why is None, skip=skip)

    def log_probs(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **options: Any) -> Any:
        size = options.pop("batch_size", None)
        wanted = options.pop("compute_entropy", False)
        if any(value is not None and value is not False for value in options.values()):  # images, or experts' loss
            options |= {"batch_size": size, "compute_entropy": wanted}
            return super().log_probs(model, ids, mask, keep, **options)
        whole = self.accelerator.unwrap_model(model)
        logps, entropies = self.scorer(model, whole, ids, mask, keep, size, self.accelerator.autocast())
        return logps, entropies if wanted else None, None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        compared = inputs.get("old_per_token_logps") is not None
        with self.scorer.loss_of(inputs["advantages"], compared=compared):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def passes(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return whole_groups(batches, self.args.gradient_accumulation_steps) if order_is_free(self.args) else batches

    def sample(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Greedy completions of rows, with their scores."""
        with gathered_model(self) as model:
            return sample_rows(model, self.processing_class, rows, self.params, self.rewards.scoring)

    def solve_probe(self) -> float:
        """Accuracy on the rows of the probe."""
        with gathered_model(self) as model:
            return probe_accuracy(model, self.processing_class, self.probed, self.params, self.rewards.scoring)

    def finalize(self) -> dict[str, Any]:
        """Put the weights to publish into the model; the content of results/grpo/health.json."""
        return finalize(self.model, self.state, self.probe, self.health)


def plain(model: Any) -> Any:
    """The causal language model within adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def to_dataset(rows: list[dict[str, Any]], params: Params) -> Dataset:
    """Prompts, each with the number of its row: rows hold what fits no table."""
    return Dataset.from_list(
        [
            {"prompt": prompt_messages(row["problem"], params.prompts.system), "number": number}
            for number, row in enumerate(rows)
        ]
    )


def prompt_ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, params: Params) -> list[int]:
    text = render(tokenizer, prompt_messages(row["problem"], params.prompts.system))
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def trainer_config(params: Params, output_dir: Path) -> GRPOConfig:
    grpo = params.grpo
    # A mean for a loss that is no number, or the sum since the last row would stay none after a rollback.
    filtered = {"logging_nan_inf_filter": grpo.health.not_finite.action == "rollback"}
    in_order = {"shuffle_dataset": False} if grpo.difficulty and grpo.difficulty.order == "easy_first" else {}
    plan = batch_plan(grpo.prompts_per_step * grpo.num_generations, params.launch.micro_batch_size, world_size())
    return configure(
        GRPOConfig,
        "grpo.trl",
        grpo.trl,
        **(optimisation_kwargs(grpo, params.seed, params.launch, output_dir) | filtered),
        **plan.trainer_kwargs(),
        **grpo.model_dump(exclude=OURS),
        **in_order,
        reward_weights=[reward.weight for reward in params.rewards.named().values()],
        model_init_kwargs={"dtype": DTYPES[params.model.dtype]},
        trust_remote_code=params.model.trust_remote_code,
        **trainer_kwargs(params),
    )
