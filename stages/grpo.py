"""Stage 3: Group Relative Policy Optimization (DeepSeekMath, arXiv:2402.03300) against verifiable rewards.

Reads   models/sft/ (policy to start from and reference), data/prepared/train.jsonl; `prompts`, `verifier`, `rewards`
        and `grpo`
Writes  models/grpo/ (a plain transformers checkpoint), results/grpo/{metrics.json,curve.tsv,samples.jsonl,health.json,
        completions.parquet}
Run     posttrain grpo

The advantage of a completion is its reward minus the mean reward of its group: no value network.

A run that a health rule stops publishes what it has and exits with 0, so that it can be evaluated; metrics.json, the
manifest of models/grpo and the last line say that it was stopped.
"""

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
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

from stages.card import card
from stages.checkpoint import Checkpoints, facts
from stages.dynamic import REPLACED, ROUNDS, SAMPLED, DynamicSampling, SparePrompts, totals, without_spread
from stages.export import plain_model, whole
from stages.health import EQUAL, GENERATED, PROBE, TIMEOUTS
from stages.launch import world_size
from stages.lora import adapter_config, loading
from stages.manifest import read_jsonl, require_complete, scratch
from stages.params import Optimisation, Params
from stages.paths import GRPO_MODEL, GRPO_RESULTS, PREPARED, SFT_MODEL
from stages.prompts import Message, prompt_messages
from stages.provenance import log_run, record, require_unchanged
from stages.records import KeptCompletions, StepClock
from stages.resume import Resumable
from stages.rewards import Completion, Score, Scoring, judge
from stages.trackers import after_ours
from stages.training import (
    DTYPES,
    Curve,
    align_special_tokens,
    batch_plan,
    load_tokenizer,
    optimisation_kwargs,
    publish_model,
    publish_results,
    sample,
    start,
)
from stages.trl_options import configure
from stages.vllm import reseed, trainer_kwargs
from stages.vllm.server import rollout_server
from stages.watch import HealthWatch, ProbeWatch, closing_line, health_metrics, hold_out, settle

NUM_SAMPLES = 4

OURS = {
    *Optimisation.model_fields,
    *("prompts_per_step", "probe", "publish", "health", "dynamic_sampling", "trl", "keep_completions_steps"),
}
"""Keys of the `grpo` section that do not go to TRL by `model_dump`."""

DRY_RUN_ROWS = 8

ALWAYS_SHOWN = ("reward/total", "advantage/mean", "advantage/std", "policy/kl_divergence")
MEASURES = {
    "reward": "reward/total",
    "advantage/mean": "advantage/mean",
    "advantage/std": "advantage/std",
    "kl": "policy/kl_divergence",
    "entropy": "policy/entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "clip_ratio/region_mean": "policy/clip_frac",
    EQUAL: EQUAL,
    TIMEOUTS: TIMEOUTS,
    "completions/mean_length": "completions/mean_length",
    "completions/clipped_ratio": "completions/truncated_frac",
    PROBE: PROBE,
    **{name: name for name in (ROUNDS, REPLACED, GENERATED, SAMPLED.format("total"))},
}
"""What TRL logs, and the name that a person sees."""


class GRPOCurve(Curve):
    """A column for each reward, and the advantages, which TRL keeps but does not log as metrics."""

    trainer: GRPOTrainer

    def __init__(self, rewards: Iterable[str]) -> None:
        names = {f"rewards/{name}/mean": f"reward/{name}" for name in rewards}
        sampled = {f"sampling/{name}": f"sampling/{name}" for name in names.values()}
        shown = (*names.values(), *ALWAYS_SHOWN, PROBE, SAMPLED.format("accuracy"), GENERATED)
        super().__init__("grpo", {**names, **MEASURES, **sampled}, shown)

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
            logs[EQUAL] = equal_groups_frac(self.trainer)
        super().on_log(args, state, control, logs=logs, **kwargs)


def equal_groups_frac(trainer: GRPOTrainer) -> float:
    """Share of the groups of the last generation batch whose completions all got the same total.

    TRL's own `frac_reward_zero_std` compares a float32 deviation with 1e-8 and misses most: where all earn 0.15, the
    mean is rounded, and no deviation from it is 0.
    """
    rewards = torch.tensor([list(trainer._logs["rewards"][name]) for name in trainer.reward_func_names]).T
    groups = len(rewards) // trainer.num_generations
    scores = totals(rewards, trainer.reward_weights.cpu()).unsqueeze(1)
    return len(without_spread(scores, trainer.num_generations)) / groups


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


def run(params: Params) -> None:
    """Improve models/sft on the training problems, sample completions before and after, publish models/grpo."""
    began = time.monotonic()
    require_complete(PREPARED, "prepare")
    require_unchanged(SFT_MODEL, require_complete(SFT_MODEL, "sft"), "sft", params.prompts.system)
    probed, rows = hold_out(read_jsonl(PREPARED / "train.jsonl"), params.grpo.probe.problems)
    start(params.seed, params.launch)
    with (
        Scoring(params.rewards, params.verifier, params.launch.reward_workers) as scoring,
        scratch("grpo") as folder,
        rollout_server(params),
    ):
        scoring.dry_run(rows[:DRY_RUN_ROWS])
        tokenizer = load_tokenizer(str(SFT_MODEL), params.model)
        curve = GRPOCurve(scoring.params)
        probe = ProbeWatch(params.grpo, lambda: probe_accuracy(trainer, tokenizer, probed, params, scoring))
        health = HealthWatch(params, curve)
        kept, clock = KeptCompletions(params.grpo.keep_completions_steps, list(scoring.params)), StepClock("grpo")
        checkpoints, made_from = Checkpoints("grpo", facts("grpo", params)), record("grpo", params)
        spare = SparePrompts(len(rows), params.seed, params.grpo.dynamic_sampling.max_rounds)
        trainer = DynamicTrainer(
            model=str(SFT_MODEL),  # TRL loads it twice: the policy, and the reference of the KL divergence
            reward_funcs=[reward_function(name, scoring, rows, params.grpo.num_generations) for name in scoring.params],
            args=trainer_config(params, folder / "trainer"),
            train_dataset=to_dataset(rows, params),
            processing_class=tokenizer,
            callbacks=[probe, curve, health, spare, kept, clock],
            peft_config=adapter_config(params),
            **loading(params),
        )
        reseed(params, trainer.accelerator.process_index)
        trainer.scoring, trainer.rows, trainer.spare = scoring, rows, spare
        kept.trainer = clock.trainer = trainer
        after_ours(trainer)
        curve.trainer = trainer
        align_special_tokens(trainer.model, tokenizer)
        trainer.remove_callback(PrinterCallback)
        before = sample_rows(trainer, tokenizer, rows[:NUM_SAMPLES], params, scoring)
        trainer.train_or_resume(checkpoints, params.launch)
        outcome = settle(trainer.model, trainer.state, probe, health)
        after = sample_rows(trainer, tokenizer, rows[:NUM_SAMPLES], params, scoring)
        if (plain := plain_model(trainer, str(SFT_MODEL), params, tokenizer, folder)) is None:
            return
        samples = [
            {**row, "before": b, "after": a} for row, b, a in zip(rows[:NUM_SAMPLES], before, after, strict=True)
        ]
        metrics = summary(curve) | health_metrics(outcome)
        publish_results(folder, GRPO_RESULTS, metrics, curve, samples, health=outcome)
        kept.publish(folder)
        made_from |= {"rewards": scoring.sources(), "steps": outcome["steps"], "stopped_by": outcome["stopped_by"]}
        text = card(made_from, metrics, rows[0]["problem"], after[0]["completion"], SFT_MODEL)
        publish_model(folder, GRPO_MODEL, plain, tokenizer, made_from, text)
        checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("grpo", seconds=seconds, checkpoints=checkpoints.cost())
    show_sample(samples[0])
    if (line := closing_line(outcome)) is not None:
        print(f"grpo | {line}")
    print(f"grpo | wrote {GRPO_MODEL}/ in {seconds:.0f} s | next: posttrain evaluate")


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


def sample_rows(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    params: Params,
    scoring: Scoring,
) -> list[dict[str, Any]]:
    """Greedy completions of a few training problems with their scores."""
    with whole(trainer) as model:
        sampled = complete_greedily(model, tokenizer, rows, params)
    lengths_T = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text, _ in sampled]
    scores = scoring.scores(scoring.completions([text for text, _ in sampled], rows, lengths_T), 1)
    return [
        {"completion": text, "finished": finished, **{name: values[number] for name, values in scores.items()}}
        for number, (text, finished) in enumerate(sampled)
    ]


def complete_greedily(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], params: Params
) -> list[tuple[str, bool]]:
    """(completion, finished) of each row's problem."""
    generation = GenerationConfig(
        do_sample=False,
        max_new_tokens=params.grpo.max_completion_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = [prompt_messages(row["problem"], params.prompts.system) for row in rows]
    return sample(model, tokenizer, prompts, generation)


def probe_accuracy(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    params: Params,
    scoring: Scoring,
) -> float:
    """Share of the probe's problems whose greedy completion is right; a completion without a verdict is not."""
    size = params.launch.micro_batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with whole(trainer) as model:
        texts = [text for batch in batches for text, _ in complete_greedily(model, tokenizer, batch, params)]
    judged = judge(texts, [row["answer"] for row in rows], scoring.verifier)
    return statistics.fmean(scores["accuracy"] or 0.0 for scores in judged)


def summary(curve: Curve) -> dict[str, float]:
    """Means over the first and the last tenth of the run; the KL divergence over the last half, if beta measures it."""
    rewards = [name for name in curve.shown if name.startswith(("reward/", "sampling/reward/"))]
    first = {f"{name}_first": curve.mean(name, 0, 0.1) for name in rewards}
    last = {name: curve.mean(name, 0.9, 1) for name in curve.shown}
    means = {**first, **last, "policy/kl_divergence": curve.mean("policy/kl_divergence", 0.5, 1)}
    means |= {name: curve.mean(name, 0, 1) for name in (TIMEOUTS, ROUNDS, REPLACED, GENERATED)}
    return {name: value for name, value in means.items() if value is not None}


def show_sample(row: dict[str, Any]) -> None:
    """One training problem before and after, one completion below the other."""
    print(f"grpo | {row['problem']}  (gold {row['answer']})")
    for when in ("before", "after"):
        scores = ", ".join(f"{name} {value:g}" for name, value in row[when].items() if isinstance(value, float))
        print(f"grpo | {when}, {scores}: {row[when]['completion']!r}")
