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

import time

from transformers.trainer_callback import PrinterCallback

from posttrain.grpo.curve import GRPOCurve, summary
from posttrain.grpo.dynamic import SparePrompts
from posttrain.grpo.records import KeptCompletions, StepClock
from posttrain.grpo.samples import NUM_SAMPLES, probe_accuracy, sample_rows, show_sample
from posttrain.grpo.trainer import DynamicTrainer, reward_function, to_dataset, trainer_config
from posttrain.grpo.watch import HealthWatch, ProbeWatch, closing_line, health_metrics, hold_out, settle
from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import read_jsonl, scratch
from posttrain.outputs.parents import require_model, require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import GRPO_MODEL, GRPO_RESULTS, PREPARED, SFT_MODEL
from posttrain.rewards.scoring import Scoring
from posttrain.training.card import card
from posttrain.training.config import start
from posttrain.training.export import plain_model
from posttrain.training.lora import adapter_config, loading
from posttrain.training.models import align_special_tokens, load_tokenizer
from posttrain.training.publish import publish_model, publish_results
from posttrain.training.trackers import after_ours
from posttrain.vllm.rollouts import reseed
from posttrain.vllm.server import rollout_server

DRY_RUN_ROWS = 8


def run(params: Params) -> None:
    """Improve models/sft on the training problems, sample completions before and after, publish models/grpo."""
    began = time.monotonic()
    require_out(PREPARED, "prepare")
    require_model(SFT_MODEL, "sft", params.prompts.system)
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
        origin = Origin("grpo", params)
        checkpoints = Checkpoints(origin)
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
        made_from = origin.record | {
            "rewards": scoring.sources(),
            "steps": outcome["steps"],
            "stopped_by": outcome["stopped_by"],
        }
        text = card(made_from, metrics, rows[0]["problem"], after[0]["completion"], SFT_MODEL)
        publish_model(folder, GRPO_MODEL, plain, tokenizer, made_from, text)
        checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("grpo", seconds=seconds, checkpoints=checkpoints.cost())
    show_sample(samples[0])
    if (line := closing_line(outcome)) is not None:
        print(f"grpo | {line}")
    print(f"grpo | wrote {GRPO_MODEL}/ in {seconds:.0f} s | next: posttrain evaluate")
