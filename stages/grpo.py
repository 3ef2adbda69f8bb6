"""Stage 3: Group Relative Policy Optimization (DeepSeekMath, arXiv:2402.03300) against verifiable rewards.

Reads   models/sft/ (policy to start from and reference), data/prepared/train.jsonl; `prompts`, `rewards`, `grpo`
Writes  models/grpo/ (a plain transformers checkpoint) and results/grpo/{metrics.json,curve.tsv,samples.jsonl}
Run     posttrain grpo

The advantage of a completion is its reward minus the mean reward of its group: no value network.
"""

import statistics
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from stages.checkpoint import Checkpoints, facts
from stages.manifest import read_jsonl, require_complete, scratch
from stages.params import Optimisation, Params
from stages.paths import GRPO_MODEL, GRPO_RESULTS, PREPARED, SFT_MODEL
from stages.prompts import Message, prompt_messages
from stages.resume import Resumable
from stages.rewards import REWARDS, Score, scores
from stages.training import (
    DTYPES,
    Curve,
    align_special_tokens,
    batch_plan,
    load_tokenizer,
    log_run,
    optimisation_kwargs,
    publish_model,
    publish_results,
    sample,
    start,
)

NUM_SAMPLES = 4

OURS = {*Optimisation.model_fields, "prompts_per_step"}
"""Keys of the `grpo` section that do not go to TRL by `model_dump`."""

CURVE = {
    **{f"rewards/{name}/mean": f"reward/{name}" for name in REWARDS},
    "reward": "reward/total",
    "advantage/mean": "advantage/mean",
    "advantage/std": "advantage/std",
    "kl": "policy/kl_divergence",
    "entropy": "policy/entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "policy/clip_frac",
    "frac_reward_zero_std": "reward/zero_std_frac",
    "completions/mean_length": "completions/mean_length",
    "completions/clipped_ratio": "completions/truncated_frac",
}
SHOWN = (
    *(f"reward/{name}" for name in REWARDS),
    "reward/total",
    "advantage/mean",
    "advantage/std",
    "policy/kl_divergence",
)


class GRPOCurve(Curve):
    """Adds the advantages, which TRL keeps but does not log as metrics."""

    trainer: GRPOTrainer

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and "reward" in logs:
            advantages = list(self.trainer._logs["advantages"])  # of the last generation batch
            logs["advantage/mean"] = round(statistics.fmean(advantages), 6) + 0.0  # 0 by construction, so never -0
            logs["advantage/std"] = statistics.pstdev(advantages)
        super().on_log(args, state, control, logs=logs, **kwargs)


class Trainer(Resumable, GRPOTrainer):
    """TRL's, and a killed run goes on."""


def run(params: Params) -> None:
    """Improve models/sft on the training problems, sample completions before and after, publish models/grpo."""
    began = time.monotonic()
    require_complete(PREPARED, "prepare")
    parent = require_complete(SFT_MODEL, "sft")
    start(params.seed, params.launch)
    rows = read_jsonl(PREPARED / "train.jsonl")
    tokenizer = load_tokenizer(str(SFT_MODEL), params.model)
    curve = GRPOCurve("grpo", CURVE, SHOWN)
    checkpoints = Checkpoints("grpo", facts("grpo", params))
    with scratch("grpo") as folder:
        trainer = Trainer(
            model=str(SFT_MODEL),  # TRL loads it twice: the policy, and the reference of the KL divergence
            reward_funcs=[reward_function(name, score) for name, score in REWARDS.items()],
            args=trainer_config(params, folder / "trainer"),
            train_dataset=to_dataset(rows, params),
            processing_class=tokenizer,
            callbacks=[curve],
        )
        curve.trainer, model = trainer, trainer.model
        align_special_tokens(model, tokenizer)
        trainer.remove_callback(PrinterCallback)
        before = sample_rows(model, tokenizer, rows[:NUM_SAMPLES], params)
        trainer.train_or_resume(checkpoints, params.launch)
        after = sample_rows(model, tokenizer, rows[:NUM_SAMPLES], params)
        samples = [
            {**row, "before": b, "after": a} for row, b, a in zip(rows[:NUM_SAMPLES], before, after, strict=True)
        ]
        metrics = summary(curve)
        publish_results(folder, GRPO_RESULTS, metrics, curve, samples)
        publish_model(folder, GRPO_MODEL, model, tokenizer, {"stage": "grpo", "parent": parent["files"]})
    checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("grpo", seconds=seconds, checkpoints=checkpoints.cost())
    show_sample(samples[0])
    print(f"grpo | wrote {GRPO_MODEL}/ in {seconds:.0f} s | next: posttrain evaluate")


def to_dataset(rows: list[dict[str, str]], params: Params) -> Dataset:
    return Dataset.from_list(
        [{"prompt": prompt_messages(row["problem"], params.prompts.system), "answer": row["answer"]} for row in rows]
    )


def trainer_config(params: Params, output_dir: Path) -> GRPOConfig:
    grpo = params.grpo
    plan = batch_plan(grpo.prompts_per_step * grpo.num_generations, params.launch.micro_batch_size)
    return GRPOConfig(
        **optimisation_kwargs(grpo, params.seed, params.launch, output_dir),
        **plan.trainer_kwargs(),
        **grpo.model_dump(exclude=OURS),
        reward_weights=[getattr(params.rewards, name).weight for name in REWARDS],
        model_init_kwargs={"dtype": DTYPES[params.model.dtype]},
        trust_remote_code=params.model.trust_remote_code,
    )


def reward_function(name: str, score: Score) -> Any:
    """A pure score as the batch function that TRL calls; TRL names its metrics after `__name__`."""

    def rewards(completions: list[list[Message]], answer: list[str], **_: Any) -> list[float]:
        return [score(completion[-1]["content"], gold) for completion, gold in zip(completions, answer, strict=True)]

    rewards.__name__ = name
    return rewards


def sample_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], params: Params
) -> list[dict[str, Any]]:
    """Greedy completions of a few training problems with their scores."""
    generation = GenerationConfig(
        do_sample=False,
        max_new_tokens=params.grpo.max_completion_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = [prompt_messages(row["problem"], params.prompts.system) for row in rows]
    completions = sample(model, tokenizer, prompts, generation)
    return [
        {"completion": completion, "finished": finished, **scores(completion, row["answer"])}
        for row, (completion, finished) in zip(rows, completions, strict=True)
    ]


def summary(curve: Curve) -> dict[str, float]:
    """Means over the first and the last tenth of the run; the KL divergence over the last half, if beta measures it."""
    first = {f"{name}_first": curve.mean(name, 0, 0.1) for name in ("reward/accuracy", "reward/total")}
    last = {name: curve.mean(name, 0.9, 1) for name in SHOWN}
    means = {**first, **last, "policy/kl_divergence": curve.mean("policy/kl_divergence", 0.5, 1)}
    return {name: value for name, value in means.items() if value is not None}


def show_sample(row: dict[str, Any]) -> None:
    """One training problem before and after, one completion below the other."""
    print(f"grpo | {row['problem']}  (gold {row['answer']})")
    for when in ("before", "after"):
        print(f"grpo | {when}, accuracy {row[when]['accuracy']:g}: {row[when]['completion']!r}")
