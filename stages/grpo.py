"""Stage 3: Group Relative Policy Optimization (DeepSeekMath, arXiv:2402.03300) against verifiable rewards.

Reads   models/sft/ (policy to start from and reference), data/prepared/train.jsonl; `prompts`, `verifier`, `rewards`
        and `grpo`
Writes  models/grpo/ (a plain transformers checkpoint), results/grpo/{metrics.json,curve.tsv,samples.jsonl,health.json,
        completions.parquet,difficulty.parquet}, results/grpo.json
Run     posttrain grpo

The advantage of a completion is its reward minus the mean reward of its group: no value network.

A run that a health rule stops publishes what it has and exits with 0, so that it can be evaluated; metrics.json, the
manifest of models/grpo and the last line say that it was stopped. One whose numbers are lost publishes nothing.
"""

import time
from typing import Any

from posttrain.grpo.attempts import measure_by_server, select
from posttrain.grpo.batch_rewards import BatchRewards
from posttrain.grpo.curve import key_metrics, summary
from posttrain.grpo.difficulty import Selection
from posttrain.grpo.samples import show_sample
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.grpo.watch import closing_lines, health_metrics, hold_out
from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.facts import Origin
from posttrain.outputs.json_files import RESTORE, read_objects
from posttrain.outputs.manifest import publish_json, unpublished
from posttrain.outputs.parents import require_model, require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import GRPO_METRICS, GRPO_MODEL, GRPO_RESULTS, PREPARED, SFT_MODEL
from posttrain.rewards.scoring import Scoring
from posttrain.training.card import card
from posttrain.training.changed import changed_metric
from posttrain.training.config import start
from posttrain.training.export import plain_model
from posttrain.training.pretrained import load_tokenizer
from posttrain.training.publish import kept, publish_model, publish_results
from posttrain.training.resume import Resume
from posttrain.vllm.server import rollout_server

NUM_SAMPLES = 4
DRY_RUN_ROWS = 8


def run(params: Params) -> None:
    """Improve models/sft on the training problems, sample completions before and after, publish models/grpo."""
    began = time.monotonic()
    require_out(PREPARED, "prepare")
    require_model(SFT_MODEL, "sft", params.prompts.system)
    checkpoints = Checkpoints(Origin.now("grpo", params))
    probed, rows = hold_out(list(read_objects(PREPARED / "train.jsonl", RESTORE)), params.grpo.probe.problems)
    measure_by_server(params)
    start(params.seed, params.launch)
    with (
        Scoring(params.rewards, params.verifier, params.launch.reward_workers) as scoring,
        unpublished("grpo") as folder,
        rollout_server(params),
    ):
        scoring.dry_run(rows[:DRY_RUN_ROWS])
        args = trainer_config(params, folder / "trainer")
        selection = select(rows, params, args, scoring.verifier)
        rows = selection.rows
        trainer = Trainer(
            params,
            SFT_MODEL,
            load_tokenizer(str(SFT_MODEL), params.model, params.prompts.system),
            BatchRewards(scoring, rows, params.grpo.num_generations),
            args,
            probed=probed,
            resume=Resume(checkpoints, params.launch),
        )
        before = trainer.sample(rows[:NUM_SAMPLES])
        trainer.train_or_resume()
        outcome = trainer.finalize()
        after = trainer.sample(rows[:NUM_SAMPLES])
        plain = plain_model(trainer, str(SFT_MODEL), params, trainer.processing_class, folder)
        if plain is None:
            return  # the main process publishes
        samples = [
            {**row, "before": b, "after": a} for row, b, a in zip(rows[:NUM_SAMPLES], before, after, strict=True)
        ]
        checkpoints.origin.require_same_parents()
        outcome |= changed_metric(plain, SFT_MODEL)
        with kept(checkpoints):
            metrics = publish(trainer, plain, outcome, samples, selection, checkpoints.origin)
        trainer.tracked.finish(metrics, samples)
        checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("grpo", seconds=seconds, checkpoints=checkpoints.cost())
    show_sample(samples[0])
    for line in closing_lines(outcome):
        print(f"grpo | {line}")
    print(f"grpo | wrote {GRPO_MODEL}/ in {seconds:.0f} s | next: posttrain evaluate")


def publish(
    trainer: Trainer,
    model: Any,
    outcome: dict[str, Any],
    samples: list[dict[str, Any]],
    selection: Selection,
    origin: Origin,
) -> dict[str, Any]:
    """The metrics. results/grpo/ first: a model that is there is the sign that the stage is done."""
    metrics = summary(trainer.curve) | health_metrics(outcome) | selection.metrics()
    publish_results(GRPO_RESULTS, metrics, trainer.curve, samples, health=outcome)
    publish_json(GRPO_METRICS, key_metrics(metrics))
    trainer.kept.publish()
    selection.publish()
    ended = {"steps": outcome["steps"], "stopped_by": outcome["stopped_by"]}
    record = origin.trained | {"rewards": trainer.rewards.scoring.sources()} | ended
    text = card(record, metrics, samples[0]["problem"], samples[0]["after"]["completion"], SFT_MODEL)
    publish_model(GRPO_MODEL, model, trainer.processing_class, record, text)
    return metrics
