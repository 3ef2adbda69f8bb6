"""Stage 2: supervised fine-tuning on teacher traces, on the completions only.

Reads   data/prepared/sft.jsonl; the `model`, `prompts` and `sft` sections
Writes  models/sft/ (a plain transformers checkpoint) and results/sft/{metrics.json,curve.tsv,samples.jsonl}
Run     posttrain sft
"""

import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from stages.card import card
from stages.checkpoint import Checkpoints, facts
from stages.errors import InputError
from stages.export import plain_model, whole
from stages.launch import world_size
from stages.lora import adapter_config, check_targets, loading
from stages.manifest import read_jsonl, require_complete, scratch
from stages.params import Params
from stages.paths import PREPARED, SFT_MODEL, SFT_RESULTS
from stages.prompts import prompt_messages
from stages.provenance import log_run, record
from stages.resume import Resumable
from stages.scratch import random_model, train_tokenizer
from stages.training import (
    Curve,
    align_special_tokens,
    batch_plan,
    load_model,
    load_tokenizer,
    optimisation_kwargs,
    parameters,
    publish_model,
    publish_results,
    sample,
    start,
)
from stages.trl_options import configure

FROM_SCRATCH = "scratch"
NUM_SAMPLES = 4

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


def run(params: Params) -> None:
    """Train on the traces, sample a few completions, publish models/sft."""
    began = time.monotonic()
    require_complete(PREPARED, "prepare")
    start(params.seed, params.launch)
    rows = read_jsonl(PREPARED / "sft.jsonl")
    with scratch("sft") as folder:
        config = trainer_config(params, folder / "trainer")  # first: ZeRO-3 shares weights out as they are loaded
        model, tokenizer = base_model(params, rows)
        dataset, too_long = to_dataset(rows, tokenizer, params)
        curve = Curve("sft", CURVE, SHOWN)
        checkpoints, made_from = Checkpoints("sft", facts("sft", params)), record("sft", params)
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
        text = card(
            made_from, metrics, rows[0]["problem"], str(samples[0]["completion"]), Path(params.model.name_or_path)
        )
        publish_model(folder, SFT_MODEL, plain, tokenizer, made_from, text)
    checkpoints.remove()
    seconds = time.monotonic() - began
    log_run("sft", seconds=seconds, checkpoints=checkpoints.cost())
    print(f"sft | loss {metrics['loss']:.4g} | wrote {SFT_MODEL}/ in {seconds:.0f} s | next: posttrain grpo")


def base_model(params: Params, rows: list[dict[str, str]]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that SFT starts from, and its tokenizer; both made here if params say `scratch`."""
    if params.model.name_or_path == FROM_SCRATCH:
        texts = [row["problem"] + "\n" + row["completion"] for row in rows]
        tokenizer = train_tokenizer(texts, params.model.scratch.vocab_size)
        model = random_model(params.model.scratch, tokenizer)
    else:
        tokenizer = load_tokenizer(params.model.name_or_path, params.model)
        model = load_model(params.model.name_or_path, params.model, **loading(params))
    check_targets(model, params)
    align_special_tokens(model, tokenizer)
    return model, tokenizer


def to_dataset(rows: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params) -> tuple[Dataset, int]:
    """Conversations of a prompt and a completion, and how many were left out for their length in tokens.

    Raises: InputError if none is short enough.
    """
    examples, longest = [], 0
    for row in rows:
        prompt = prompt_messages(row["problem"], params.prompts.system)
        completion = [{"role": "assistant", "content": row["completion"]}]
        text = str(tokenizer.apply_chat_template(prompt + completion, tokenize=False))
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        longest = max(longest, length)
        if length <= params.sft.max_length:
            examples.append({"prompt": prompt, "completion": completion})
    if not examples:
        raise InputError(
            "params.yaml: sft.max_length",
            got=f"{params.sft.max_length}; all {len(rows)} traces are longer",
            wanted=f"room for them; the longest has {longest} tokens",
            do="raise sft.max_length",
        )
    return Dataset.from_list(examples), len(rows) - len(examples)


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
