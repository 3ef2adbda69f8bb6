"""Stage 2: supervised fine-tuning on teacher traces, on the completions only; or, with `sft: null`, none.

Reads   data/prepared/sft.jsonl or sft.parquet; the `model`, `prompts` and `sft` sections
Writes  models/sft/ (a plain transformers checkpoint) and results/sft/{metrics.json,curve.tsv,samples.jsonl}
Run     posttrain sft

With `sft: null` the model of `model.name_or_path` becomes models/sft with the weights that it has: somebody has
fine-tuned it already. The stages after this one take it like any other.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.launch.layout import layout
from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import unpublished
from posttrain.outputs.parents import require_out
from posttrain.outputs.rows import read_rows
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import PREPARED, SFT_MODEL, SFT_RESULTS
from posttrain.sft.base import base_model
from posttrain.sft.dataset import to_dataset
from posttrain.sft.samples import sample_rows
from posttrain.sft.trainer import Trainer, curve, trainer_config
from posttrain.training.card import card
from posttrain.training.changed import changed_metric, start_of
from posttrain.training.config import start
from posttrain.training.curve import Curve
from posttrain.training.export import gathered_model, plain_model
from posttrain.training.given import given_model
from posttrain.training.models import parameters
from posttrain.training.publish import kept, publish_model, publish_results
from posttrain.training.resume import Resume
from posttrain.training.standstill import standstill

NUM_SAMPLES = 4
SAMPLE_TOKENS = 256
"""Of a completion of a model that is adopted, at most; no section that this stage reads says how long they are."""


def run(params: Params) -> None:
    """Train, or take the model as it is, and publish models/sft."""
    require_out(PREPARED, "prepare")
    start(params.seed, params.launch)
    if params.sft is None:
        adopt(params)
    else:
        train(params)


def adopt(params: Params) -> None:
    """Publish the model that params name, untrained, with a few of its completions."""
    began, origin = time.monotonic(), Origin.now("sft", params)
    rows = list(islice(read_rows(PREPARED, "train"), NUM_SAMPLES))
    with unpublished("sft"):
        model, tokenizer = given_model(params)
        model.to(layout(params.launch).device)
        samples = sample_rows(model, tokenizer, rows, params.prompts.system, SAMPLE_TOKENS)
        finished = sum(sample["finished"] for sample in samples)
        metrics = {"parameters": model.num_parameters()}
        record = origin.record | {"adopted": params.model.name_or_path}
        origin.require_same_parents()
        publish(model, tokenizer, curve(), metrics, samples, record)
    seconds = time.monotonic() - began
    log_run("sft", seconds=seconds)
    print(
        f"sft | nothing to train: sft is null | {finished} of {len(samples)} samples end within {SAMPLE_TOKENS} tokens"
    )
    print(
        f"sft | adopted {params.model.name_or_path}, {metrics['parameters']:,} parameters | "
        f"wrote {SFT_MODEL}/ in {seconds:.0f} s | next: posttrain grpo"
    )


def train(params: Params) -> None:
    """Train on the traces, sample a few completions, publish models/sft."""
    began = time.monotonic()
    checkpoints = Checkpoints(Origin.now("sft", params))
    with unpublished("sft") as folder:
        config = trainer_config(params, folder / "trainer")  # first: ZeRO-3 shares weights out as they are loaded
        model, tokenizer = base_model(params, read_rows(PREPARED, "sft"))
        began_at = start_of(model, params.model)
        dataset, lengths = to_dataset(read_rows(PREPARED, "sft"), tokenizer, params, folder)
        print(f"sft | {parameters(model):,} parameters | {lengths.told()}")
        trainer = Trainer(params, model, tokenizer, dataset, config, resume=Resume(checkpoints, params.launch))
        trainer.train_or_resume()
        with gathered_model(trainer) as trained:
            max_length = params.require_sft().max_length
            rows = list(islice(read_rows(PREPARED, "sft"), NUM_SAMPLES))
            samples = sample_rows(trained, tokenizer, rows, params.prompts.system, max_length)
        if (plain := plain_model(trainer, params.model.name_or_path, params, tokenizer, folder)) is None:
            return  # the main process publishes
        metrics = trainer.metrics() | {"parameters": plain.num_parameters()} | lengths.metrics
        metrics |= changed_metric(plain, began_at)
        checkpoints.origin.require_same_parents()
        with kept(checkpoints):
            publish(plain, tokenizer, trainer.curve, metrics, samples, checkpoints.origin.trained)
    trainer.tracked.finish(metrics, samples)
    checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("sft", seconds=seconds, checkpoints=checkpoints.cost())
    if (line := standstill(metrics, "the one that it started from")) is not None:
        print(f"sft | {line}")
    print(f"sft | loss {metrics['loss']:.4g} | wrote {SFT_MODEL}/ in {seconds:.0f} s | next: posttrain grpo")


def publish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    curve: Curve,
    metrics: dict[str, Any],
    samples: list[dict[str, Any]],
    record: dict[str, Any],
) -> None:
    """results/sft/ first: a model that is there is the sign that the stage is done."""
    publish_results(SFT_RESULTS, metrics, curve, samples)
    base = Path(record["params"]["model"]["name_or_path"])
    text = card(record, metrics, samples[0]["problem"], samples[0]["completion"], base)
    publish_model(SFT_MODEL, model, tokenizer, record, text)
