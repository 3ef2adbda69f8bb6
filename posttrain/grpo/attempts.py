"""Sampled solutions of training problems by the model that `grpo.difficulty` names, shared out among the processes."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from posttrain.errors import InputError
from posttrain.generation.engine import Sampling, generate
from posttrain.grpo.difficulty import Measured, Rate, Row, Selection, chosen, measure, require_enough
from posttrain.judge.verifier import Verifier
from posttrain.outputs.facts import code_hashes, versions
from posttrain.outputs.manifest import file_hashes
from posttrain.params.schema import Params
from posttrain.paths import BASE_MODELS, SFT_MODEL
from posttrain.prompts import prompt_messages
from posttrain.rewards.scoring import judge
from posttrain.templates import opened, render
from posttrain.training.models import load_model
from posttrain.training.pretrained import load_tokenizer

CODE = ["posttrain/generation", "posttrain/judge", "posttrain/prompts.py", "posttrain/templates.py"]
"""What decides a pass rate beside model, prompts and sampling."""


def select(rows: list[Row], params: Params, args: TrainingArguments, verifier: Verifier) -> Selection:
    """The rows to train on: those whose measured pass rate `grpo.difficulty` asks for, all where it is null.

    `args` says which process this is, and on which device it works.

    Raises: InputError if too few are left
    """
    wanted = params.grpo.difficulty
    if wanted is None:
        return Selection(rows)
    found = pass_rates(rows, params, args, verifier)
    selection = Selection(chosen(rows, found, wanted), [found[row["id"]] for row in rows])
    if args.process_index == 0:
        for line in selection.lines():
            print(f"grpo | {line}")
    require_enough(selection, wanted, params.grpo.prompts_per_step)
    return selection


def pass_rates(rows: Sequence[Row], params: Params, args: TrainingArguments, verifier: Verifier) -> dict[str, Rate]:
    """The pass rate of each row's problem, by id; what is on disk is not measured again."""
    folder = model_folder(params)
    mine = rows[args.process_index :: args.world_size]
    measured = Measured(facts(folder, params), args.process_index)
    there = measured.rates()
    if any(row["id"] not in there for row in mine):
        with untouched_generators(), tqdm(total=len(mine), desc="pass rates", disable=None) as bar:
            sampler = Sampler(folder, params, args.device, verifier)
            measure(mine, measured, sampler.attempt, sampler.problems, bar.update)
        there = measured.rates()
    found: list[Rate] = gather_object([there[row["id"]] for row in mine])
    return {rate.id: rate for rate in found}


def model_folder(params: Params) -> Path:
    """Raises: InputError if params name a folder that is none"""
    wanted = params.grpo.difficulty
    if wanted is None or wanted.model is None:
        return SFT_MODEL
    folder = Path(wanted.model)
    if not (folder.is_dir() and folder.parts[:2] == BASE_MODELS.parts):
        raise InputError(
            "params.yaml: grpo.difficulty.model",
            got=wanted.model,
            wanted=f"a folder under {BASE_MODELS}/, or null for models/sft",
            do=f"copy or link the model to {BASE_MODELS}/",
        )
    return folder


def facts(folder: Path, params: Params) -> dict[str, Any]:
    """What pass rates depend on."""
    grpo, wanted = params.grpo, params.grpo.difficulty
    assert wanted is not None
    used = versions()
    return {
        "model": {name: value for name, value in file_hashes(folder).items() if name != "README.md"},
        "dtype": params.model.dtype,
        "prompts": params.prompts.model_dump(),
        "sampling": [grpo.temperature, grpo.top_p, grpo.max_completion_length, wanted.num_samples, params.seed],
        "verifier": params.verifier.timeout_s,
        "code": code_hashes(CODE),
        "versions": {name: used.get(name) for name in ("torch", "transformers", "math-verify")},
    }


@contextmanager
def untouched_generators() -> Iterator[None]:
    """What is drawn within leaves torch's generators as they were: a run that finds its rates on disk draws alike."""
    with torch.random.fork_rng():
        yield


class Sampler:
    """Attempts of one model at problems, with the sampling of GRPO."""

    def __init__(self, folder: Path, params: Params, device: torch.device, verifier: Verifier) -> None:
        self.params, self.verifier = params, verifier
        wanted = params.grpo.difficulty
        assert wanted is not None
        self.samples = wanted.num_samples
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(folder), params.model, params.prompts.system)
        self.model: PreTrainedModel = load_model(str(folder), params.model).to(device).eval()
        self.problems = max(1, params.launch.micro_batch_size // self.samples)

    def attempt(self, rows: Sequence[Row]) -> list[Rate]:
        texts = [text for texts in self.completions(rows) for text in texts]
        golds = [row["answer"] for row in rows for _ in range(self.samples)]
        right = [scores["accuracy"] == 1.0 for scores in judge(texts, golds, self.verifier)]
        groups = (right[start : start + self.samples] for start in range(0, len(right), self.samples))
        return [Rate(row["id"], sum(group), self.samples) for row, group in zip(rows, groups, strict=True)]

    def completions(self, rows: Sequence[Row]) -> list[list[str]]:
        """Texts (rows, samples), each with what its prompt has opened."""
        grpo, system = self.params.grpo, self.params.prompts.system
        asked = [render(self.tokenizer, prompt_messages(row["problem"], system)) for row in rows]
        ids = self.tokenizer(asked, add_special_tokens=False)["input_ids"]
        sampling = Sampling(grpo.max_completion_length, grpo.temperature, grpo.top_p)
        seeds = [[seed(self.params.seed, row["id"], number) for number in range(self.samples)] for row in rows]
        ends = {self.tokenizer.eos_token_id}
        written = generate(self.model, ids, sampling, ends, seeds, rows=self.params.launch.micro_batch_size)
        return [
            [begun + text for text in self.tokenizer.batch_decode(samples, skip_special_tokens=True)]
            for begun, samples in zip(map(opened, asked, [row["problem"] for row in rows]), written, strict=True)
        ]


def seed(run: int, problem: str, number: int) -> int:
    """Of one sample: the same whichever process draws it, and in whatever company."""
    digest = hashlib.sha256(f"difficulty/{run}/{problem}/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
