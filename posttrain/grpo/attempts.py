"""Sampled solutions of training problems by the model that `grpo.difficulty` names, each by its own seed.

With `grpo.use_vllm` a vLLM server writes them, before anything else of the stage starts; else the stage's processes,
which share out the batches. Completions are kept as those of evaluation are, so a killed run goes on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedTokenizerBase, TrainingArguments

from posttrain.errors import InputError, PosttrainError
from posttrain.generation.completion_cache import Order, by_batch, model_hash
from posttrain.generation.engine import Sampling
from posttrain.generation.generators import Generator, Tokens, Transformers
from posttrain.grpo.difficulty import Measured, Rate, Row, Selection, chosen, require_enough
from posttrain.grpo.watch import hold_out
from posttrain.judge.verifier import Verifier
from posttrain.launch.environment import is_worker
from posttrain.launch.layout import world_size
from posttrain.outputs.facts import code_hashes, versions
from posttrain.outputs.json_files import RESTORE, read_objects
from posttrain.outputs.parents import require_model, require_out
from posttrain.params.schema import Difficulty, Dtype, Params
from posttrain.paths import BASE_MODELS, PREPARED, SFT_MODEL
from posttrain.prompts import prompt_messages
from posttrain.rewards.scoring import judge
from posttrain.templates import opened, render
from posttrain.training.pretrained import load_tokenizer
from posttrain.vllm.generator import VLLMServer

CODE = ["posttrain/generation", "posttrain/judge", "posttrain/prompts.py", "posttrain/templates.py"]
"""What decides a pass rate beside model, problems and sampling."""
SEEDS = 2**31
"""That every server takes."""


def select(rows: list[Row], params: Params, args: TrainingArguments, verifier: Verifier) -> Selection:
    """The rows to train on: those whose measured pass rate `grpo.difficulty` asks for, all where it is null.

    `args` says which process this is.

    Raises: InputError if too few are left
    """
    wanted = params.grpo.difficulty
    if wanted is None:
        return Selection(rows)
    found = {rate.id: rate for rate in pass_rates(Attempts(rows, params, wanted), args, verifier)}
    selection = Selection(chosen(rows, found, wanted), [found[row["id"]] for row in rows])
    if args.process_index == 0:
        for line in selection.lines():
            print(f"grpo | {line}")
    require_enough(selection, wanted, params.grpo.prompts_per_step)
    return selection


def pass_rates(attempts: "Attempts", args: TrainingArguments, verifier: Verifier) -> list[Rate]:
    """What is on disk, else measured by the processes of this launch together."""
    there = [attempts.measured.rates() if args.process_index == 0 else None]
    (known,) = broadcast_object_list(there)
    if known is not None:
        return list(known)
    if by_server(attempts.params):
        raise PosttrainError(f"{attempts.measured.path}: no pass rates, which are measured before this process starts")
    with untouched_generators(), attempts.engine() as generator:
        mine = attempts.rates(generator, verifier, args.process_index, args.world_size)
    found: list[Rate] = gather_object(mine)
    if args.process_index == 0:
        attempts.measured.keep(found)
    return found


def by_server(params: Params) -> bool:
    """Whether a vLLM server measures. One that runs already may hold any weights, and several machines would wait for
    the first longer than they wait for each other."""
    return params.grpo.use_vllm and params.launch.vllm.server_base_url is None and params.launch.machines == 1


def measure_by_server(params: Params) -> None:
    """Measure what is not on disk with a server that ends afterwards; nothing in a process that another one started.

    Raises: InputError if the server cannot start or refuses, PosttrainError if it fails
    """
    wanted = params.grpo.difficulty
    if wanted is None or is_worker() or not by_server(params):
        return
    require_out(PREPARED, "prepare")
    require_model(SFT_MODEL, "sft", params.prompts.system)
    _, rows = hold_out(list(read_objects(PREPARED / "train.jsonl", RESTORE)), params.grpo.probe.problems)
    attempts = Attempts(rows, params, wanted)
    if attempts.measured.rates() is not None:
        return
    with (
        Verifier(params.verifier.timeout_s, params.verifier.max_timeout_frac, params.launch.reward_workers) as verifier,
        VLLMServer(attempts.folder, params, wanted.num_samples, "grpo") as generator,
    ):
        attempts.measured.keep(attempts.rates(generator, verifier))


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


@contextmanager
def untouched_generators() -> Iterator[None]:
    """What is drawn within leaves torch's generators as they were: a run that finds its rates on disk draws alike."""
    with torch.random.fork_rng():
        yield


class Attempts:
    """Completions of problems by the model that is measured, with the prompts and the sampling of GRPO."""

    def __init__(self, rows: Sequence[Row], params: Params, wanted: Difficulty) -> None:
        self.rows, self.params, self.samples = rows, params, wanted.num_samples
        self.folder = model_folder(params)
        self.sampling = Sampling(params.grpo.max_completion_length, params.grpo.temperature, params.grpo.top_p)

    @cached_property
    def measured(self) -> Measured:
        return Measured(self.facts)

    @cached_property
    def model(self) -> str:
        return model_hash(self.folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.folder), self.params.model, self.params.prompts.system)

    @cached_property
    def prompts(self) -> list[str]:
        system = self.params.prompts.system
        return [render(self.tokenizer, prompt_messages(row["problem"], system)) for row in self.rows]

    @property
    def dtype(self) -> Dtype:
        """That GRPO draws its completions in."""
        return self.params.grpo.generation_dtype or self.params.model.dtype

    @property
    def facts(self) -> dict[str, Any]:
        """What pass rates depend on. Hardware is left out, which changes no more than the last bits."""
        used, by = versions(), "vllm" if by_server(self.params) else "transformers"
        return {
            "model": self.model,
            "problems": hashlib.sha256(repr([(row["id"], row["answer"]) for row in self.rows]).encode()).hexdigest(),
            "prompts": hashlib.sha256(repr(self.prompts).encode()).hexdigest(),
            "generator": by,
            "dtype": self.dtype,
            "sampling": [*vars(self.sampling).values(), self.samples, self.params.seed],
            "verifier": self.params.verifier.timeout_s,
            "code": code_hashes(CODE),
            "versions": {name: used.get(name) for name in ("torch", "transformers", "math-verify", "vllm")},
        }

    @cached_property
    def order(self) -> Order:
        return Order(
            model=self.model,
            name="grpo | pass rates",
            prompts_P=self.tokenizer(self.prompts, add_special_tokens=False)["input_ids"],
            seeds_PN=[
                [seed(self.params.seed, row["id"], number) for number in range(self.samples)] for row in self.rows
            ],
            sampling=self.sampling,
            end_tokens=frozenset({self.tokenizer.eos_token_id}),
        )

    def engine(self) -> Transformers:
        """The model in this process, on its device: as many completions at a time as it draws in a step of GRPO."""
        launch, grpo = self.params.launch, self.params.grpo
        rows = grpo.prompts_per_step * grpo.num_generations // world_size()
        problems = max(1, rows // self.samples)
        return Transformers(self.folder, self.dtype, launch, problems, rows, self.params.model.trust_remote_code)

    def rates(self, generator: Generator, verifier: Verifier, process: int = 0, processes: int = 1) -> list[Rate]:
        """Those of this process's share of the batches, which are cut alike however many share them."""
        mine = list(self.order.batches(generator.batch_size))[process::processes]
        found = []
        for numbers, tokens in by_batch(self.order, generator, mine):
            found += self.judged(numbers, tokens, verifier)
        return found

    def judged(self, numbers: Sequence[int], tokens: Tokens, verifier: Verifier) -> list[Rate]:
        texts, golds = [], []
        for number, samples in zip(numbers, tokens, strict=True):
            begun = opened(self.prompts[number], self.rows[number]["problem"])
            texts += [begun + text for text in self.tokenizer.batch_decode(samples, skip_special_tokens=True)]
            golds += [self.rows[number]["answer"]] * len(samples)
        right = [scores["accuracy"] == 1.0 for scores in judge(texts, golds, verifier)]
        groups = (right[start : start + self.samples] for start in range(0, len(right), self.samples))
        return [
            Rate(self.rows[number]["id"], sum(group), self.samples)
            for number, group in zip(numbers, groups, strict=True)
        ]


def seed(run: int, problem: str, number: int) -> int:
    """Of one sample: the same whichever process draws it, and in whatever company."""
    digest = hashlib.sha256(f"difficulty/{run}/{problem}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % SEEDS
