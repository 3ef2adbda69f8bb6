"""What sft and grpo share and is not the algorithm: loading, batch arithmetic, the curve, samples, publishing."""

import json
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from stages.card import CARD
from stages.errors import InputError
from stages.launch import layout
from stages.manifest import publish, publish_files, write_json, write_jsonl
from stages.params import Launch, Model, Optimisation
from stages.prompts import Message
from stages.provenance import identity, reproducible
from stages.trackers import tracker_kwargs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def start(seed: int, launch: Launch) -> None:
    """Seed Python, NumPy and torch, and fix the number of threads."""
    set_seed(seed)
    logging.disable_progress_bar()
    # trl 1.16 reads the name that transformers 5.23 deprecates.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if threads := layout(launch).threads:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class BatchPlan:
    """`sequences` per optimizer step as forward passes of `per_device` sequences, `accumulation` times in each
    process."""

    per_device: int
    accumulation: int

    def trainer_kwargs(self) -> dict[str, int]:
        return {
            "per_device_train_batch_size": self.per_device,
            "gradient_accumulation_steps": self.accumulation,
        }


def batch_plan(sequences: int, micro_batch_size: int, processes: int) -> BatchPlan:
    """The largest equal split of a step's sequences that keeps a forward pass within `micro_batch_size`.

    The science fixes `sequences`; memory and processes decide only how many passes they take.

    Raises: InputError if the processes cannot have equal shares.
    """
    own, rest = divmod(sequences, processes)
    if rest:
        raise InputError(
            "launch.processes",
            got=f"{processes}, for {sequences} sequences a step",
            wanted="a number that divides them; it may not change the science",
            do=f"use {max(n for n in range(1, processes) if sequences % n == 0)} processes",
        )
    per_device = max(size for size in range(1, micro_batch_size + 1) if own % size == 0)
    return BatchPlan(per_device, own // per_device)


def optimisation_kwargs(params: Optimisation, seed: int, launch: Launch, output_dir: Path) -> dict[str, Any]:
    """What both trainer configs take: the shared params under transformers' names, and no side effects."""
    return {
        **{name: getattr(params, name) for name in Optimisation.model_fields},
        "seed": seed,
        "use_cpu": layout(launch).device == "cpu",
        "output_dir": str(output_dir),
        "bf16": launch.mixed_precision == "bf16",  # TRL would switch it on by itself
        "activation_checkpointing": launch.activation_checkpointing,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        **tracker_kwargs(type(params).__name__.lower(), launch),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load_tokenizer(name_or_path: str, model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a chat template whose assistant turn ends with the end-of-sequence token.

    Raises: InputError saying which of these the checkpoint lacks.
    """
    path = Path(name_or_path)
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            str(path),
            got="a model folder without a tokenizer",
            wanted=f"one of {', '.join(TOKENIZER_FILES)} beside the weights",
            do="save the tokenizer into it: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`",
        )
    tokenizer = _from_pretrained(AutoTokenizer, name_or_path, model)
    require_chat_template(tokenizer, name_or_path)
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises: InputError if there is no chat template, or if the model could never learn where its turn ends."""
    if tokenizer.chat_template is None:
        raise InputError(
            where,
            got="a tokenizer without a chat template",
            wanted="a chat template, which renders a problem into the prompt of training and evaluation",
            do="use an instruct model, or set `chat_template` in its tokenizer_config.json",
        )
    turn = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "the reply"}]
    ending = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition("the reply")[2]
    if tokenizer.eos_token is None or not ending.startswith(tokenizer.eos_token):
        raise InputError(
            where,
            got=f"a chat template that ends the assistant's turn with {ending!r}",
            wanted=f"the end-of-sequence token {tokenizer.eos_token!r} there; without it generation never stops",
            do="set `eos_token` in tokenizer_config.json to the token that ends a turn",
        )


def load_model(name_or_path: str, model: Model, **kwargs: Any) -> PreTrainedModel:
    """The weights of a checkpoint in the dtype of params."""
    return _from_pretrained(AutoModelForCausalLM, name_or_path, model, dtype=DTYPES[model.dtype], **kwargs)


def _from_pretrained(kind: Any, name_or_path: str, model: Model, **kwargs: Any) -> Any:
    path = Path(name_or_path)
    local = path.is_dir()
    if not local and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise InputError(
            "params.yaml: model.name_or_path",
            got=f"{name_or_path}: no such folder",
            wanted="a model",
            do="mend the path",
        )
    if local and not (path / "config.json").is_file():
        raise InputError(
            str(path), got="a folder without config.json", wanted="a model in transformers' format", do="mend the path"
        )
    if not local and model.revision is None:
        raise InputError(
            "params.yaml: model.revision",
            got="null",
            wanted=f"the commit of {name_or_path} to use; a branch moves",
            do="copy it from the model's `Files and versions` page",
        )
    try:
        return kind.from_pretrained(
            name_or_path,
            revision=None if local else model.revision,
            trust_remote_code=model.trust_remote_code,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            name_or_path,
            got=" ".join(str(error).split())[:300],
            wanted="a model folder or a Hub model that transformers can load",
            do="check model.name_or_path, model.revision and the network",
        ) from None


def parameters(model: PreTrainedModel) -> int:
    """How many there are, also where ZeRO-3 has shared them out."""
    return sum(getattr(value, "ds_numel", value.numel()) for value in model.parameters())


def align_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """One end and one padding token for tokenizer, model and generation, so that generation stops everywhere."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    model.config.use_cache = True  # the trainer switches it off in the config that would be published


# ---------------------------------------------------------------------------------------------------------------------
# Watching


class Curve(TrainerCallback):
    """One line a logging step on the console, the same numbers as rows of a table.

    `names` maps what the trainer logs to the names that a person sees; everything else is left out. Seconds are shown
    but not kept: they differ between two equal runs.
    """

    def __init__(self, stage: str, names: Mapping[str, str], shown: tuple[str, ...]) -> None:
        self.stage, self.names, self.shown = stage, dict(names), shown
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=self.stage, unit="step", leave=False, disable=None)
        self.started = self.last = time.monotonic()
        self.first = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if "loss" not in logs:  # the summary at the end, which has no step of its own
            return
        row = {"step": state.global_step}
        row |= {name: float(logs[key]) for key, name in self.names.items() if logs.get(key) is not None}
        self.rows.append(row)
        now = time.monotonic()
        steps_s = (now - self.last) / args.logging_steps
        self.last = now
        left_s = (now - self.started) / (state.global_step - self.first) * (state.max_steps - state.global_step)
        fields = [f"{name} {row[name]:.4g}" for name in self.shown if name in row]
        head = f"{self.stage} {state.global_step}/{state.max_steps}"
        tqdm.write(" | ".join([head, *fields, f"{steps_s:.2f} s/step", f"{left_s:.0f} s left"]))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()

    def resume_state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def write(self, path: Path) -> None:
        """A TSV with a column for every name that was ever logged; `dvc plots` reads it."""
        columns = ["step", *(name for name in self.names.values() if any(name in row for row in self.rows))]
        lines = ["\t".join(columns)]
        lines += ["\t".join(f"{row[name]:.6g}" if name in row else "" for name in columns) for row in self.rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def mean(self, name: str, first_frac: float, last_frac: float) -> float | None:
        """Mean of a column over the rows between two fractions of the run; None if it was not logged there."""
        window = self.rows[int(first_frac * len(self.rows)) : max(1, round(last_frac * len(self.rows)))]
        values = [row[name] for row in window if name in row]
        return sum(values) / len(values) if values else None


# ---------------------------------------------------------------------------------------------------------------------
# Samples and publishing


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    generation: GenerationConfig,
) -> list[tuple[str, bool]]:
    """One (completion, finished) for each prompt; finished means that it ended with the end-of-sequence token."""
    text = [str(tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True)) for p in prompts]
    batch = tokenizer(text, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    model.eval()
    ids = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        generation_config=generation,
    )
    completions = ids[:, batch["input_ids"].shape[1] :]
    finished = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
    return list(zip(tokenizer.batch_decode(completions, skip_special_tokens=True), finished, strict=True))


def publish_results(
    folder: Path, target: Path, metrics: Any, curve: Curve, samples: list[dict[str, Any]], **documents: Any
) -> None:
    """results/<stage>/: metrics.json, curve.tsv, samples.jsonl, and every document as <name>.json."""
    out = folder / "results"
    out.mkdir()
    for name, content in {"metrics": metrics, **documents}.items():
        write_json(out / f"{name}.json", content)
    curve.write(out / "curve.tsv")
    write_jsonl(out / "samples.jsonl", samples)
    publish_files(out, target)


def publish_model(
    folder: Path,
    target: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, Any],
    text: str,
) -> None:
    """models/<stage>/: a plain transformers checkpoint in safetensors, with tokenizer, template, card and manifest."""
    out = folder / "model"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    # Where the tokenizer was loaded from is no property of the model, and would make equal outs differ.
    with suppress(KeyError):
        del config["name_or_path"]
    write_json(out / "tokenizer_config.json", config)
    (out / CARD).write_text(text, encoding="utf-8")
    made = {"model": identity(out, facts["params"]["prompts"]["system"]), "bytes": reproducible(model.device.type)}
    publish(out, target, facts | made)
