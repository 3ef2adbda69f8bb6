"""Stage 2: supervised fine-tuning on teacher traces, on the completions only.

Reads   data/prepared/sft.jsonl; the `model`, `prompts` and `sft` sections
Writes  models/sft/ (a plain transformers checkpoint) and results/sft/{metrics.json,curve.tsv,samples.jsonl}
Run     posttrain sft
"""

import time
from pathlib import Path
from typing import Any

from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import read_jsonl, unpublished
from posttrain.outputs.parents import require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import PREPARED, SFT_MODEL, SFT_RESULTS
from posttrain.sft.base import base_model
from posttrain.sft.samples import sample_rows
from posttrain.sft.traces import to_dataset
from posttrain.sft.trainer import Trainer, trainer_config
from posttrain.training.card import card
from posttrain.training.config import start
from posttrain.training.export import gathered_model, plain_model
from posttrain.training.models import parameters
from posttrain.training.publish import publish_model, publish_results
from posttrain.training.resume import Resume

NUM_SAMPLES = 4


def run(params: Params) -> None:
    """Train on the traces, sample a few completions, publish models/sft."""
    began = time.monotonic()
    require_out(PREPARED, "prepare")
    start(params.seed, params.launch)
    rows = read_jsonl(PREPARED / "sft.jsonl")
    checkpoints = Checkpoints(Origin("sft", params))
    with unpublished("sft") as folder:
        config = trainer_config(params, folder / "trainer")  # first: ZeRO-3 shares weights out as they are loaded
        model, tokenizer = base_model(params, rows)
        dataset, too_long = to_dataset(rows, tokenizer, params)
        print(f"sft | {parameters(model):,} parameters | {len(dataset)} traces, {too_long} longer than sft.max_length")
        trainer = Trainer(params, model, tokenizer, dataset, config, resume=Resume(checkpoints, params.launch))
        trainer.train_or_resume()
        with gathered_model(trainer) as trained:
            samples = sample_rows(trained, tokenizer, rows[:NUM_SAMPLES], params)
        if (plain := plain_model(trainer, params.model.name_or_path, params, tokenizer, folder)) is None:
            return  # the main process publishes
        metrics = trainer.metrics() | {"parameters": plain.num_parameters(), "too_long": too_long}
        publish(trainer, plain, metrics, samples, checkpoints.origin)
    checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("sft", seconds=seconds, checkpoints=checkpoints.cost())
    print(f"sft | loss {metrics['loss']:.4g} | wrote {SFT_MODEL}/ in {seconds:.0f} s | next: posttrain grpo")


def publish(
    trainer: Trainer,
    model: Any,
    metrics: dict[str, Any],
    samples: list[dict[str, Any]],
    origin: Origin,
) -> None:
    """results/sft/ first: a model that is there is the sign that the stage is done."""
    publish_results(SFT_RESULTS, metrics, trainer.curve, samples)
    base = Path(origin.params.model.name_or_path)
    text = card(origin.record, metrics, samples[0]["problem"], samples[0]["completion"], base)
    publish_model(SFT_MODEL, model, trainer.processing_class, origin.record, text)
