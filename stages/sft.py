"""Stage 2: supervised fine-tuning on teacher traces, on the completions only.

Reads   data/prepared/sft.jsonl; the `model`, `prompts` and `sft` sections
Writes  models/sft/ (a plain transformers checkpoint) and results/sft/{metrics.json,curve.tsv,samples.jsonl}
Run     posttrain sft
"""

import time
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback

from posttrain.outputs.checkpoints import Checkpoints
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import read_jsonl, scratch
from posttrain.outputs.parents import require_out
from posttrain.outputs.run_log import log_run
from posttrain.params.schema import Params
from posttrain.paths import PREPARED, SFT_MODEL, SFT_RESULTS
from posttrain.prompts import prompt_messages
from posttrain.sft.base import base_model
from posttrain.sft.traces import to_dataset
from posttrain.sft.trainer import CURVE, SHOWN, Trainer, trainer_config
from posttrain.training.card import card
from posttrain.training.config import start
from posttrain.training.curve import Curve
from posttrain.training.export import plain_model, whole
from posttrain.training.lora import adapter_config
from posttrain.training.models import parameters, sample
from posttrain.training.publish import publish_model, publish_results

NUM_SAMPLES = 4


def run(params: Params) -> None:
    """Train on the traces, sample a few completions, publish models/sft."""
    began = time.monotonic()
    require_out(PREPARED, "prepare")
    start(params.seed, params.launch)
    rows = read_jsonl(PREPARED / "sft.jsonl")
    with scratch("sft") as folder:
        config = trainer_config(params, folder / "trainer")  # first: ZeRO-3 shares weights out as they are loaded
        model, tokenizer = base_model(params, rows)
        dataset, too_long = to_dataset(rows, tokenizer, params)
        curve = Curve("sft", CURVE, SHOWN)
        origin = Origin("sft", params)
        checkpoints = Checkpoints(origin)
        print(f"sft | {parameters(model):,} parameters | {len(dataset)} traces, {too_long} longer than sft.max_length")
        trainer = Trainer(
            model=model,
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[curve],
            peft_config=adapter_config(params),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train_or_resume(checkpoints, params.launch)
        with whole(trainer) as trained:
            samples = sample_rows(trained, tokenizer, rows[:NUM_SAMPLES], params)
        if (plain := plain_model(trainer, params.model.name_or_path, params, tokenizer, folder)) is None:
            return
        metrics = {
            "loss": curve.mean("loss", 0.9, 1),
            "token_accuracy": curve.mean("token_accuracy", 0.9, 1),
            "parameters": plain.num_parameters(),
            "tokens_seen": int(trainer.state.num_input_tokens_seen),
            "too_long": too_long,
        }
        publish_results(folder, SFT_RESULTS, metrics, curve, samples)
        base = Path(params.model.name_or_path)
        text = card(origin.record, metrics, rows[0]["problem"], str(samples[0]["completion"]), base)
        publish_model(folder, SFT_MODEL, plain, tokenizer, origin.record, text)
    checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("sft", seconds=seconds, checkpoints=checkpoints.cost())
    print(f"sft | loss {metrics['loss']:.4g} | wrote {SFT_MODEL}/ in {seconds:.0f} s | next: posttrain grpo")


def sample_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], params: Params
) -> list[dict[str, object]]:
    """Greedy completions of a few training problems, which show whether generation stops by itself."""
    generation = GenerationConfig(
        do_sample=False,
        max_new_tokens=params.sft.max_length,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = [prompt_messages(row["problem"], params.prompts.system) for row in rows]
    completions = sample(model, tokenizer, prompts, generation)
    return [
        {"problem": row["problem"], "completion": completion, "finished": finished}
        for row, (completion, finished) in zip(rows, completions, strict=True)
    ]
