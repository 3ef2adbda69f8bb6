"""Completions of prompts: as fast as a transformers model gives them in this process, the same in any batch.

`generate` computes a prompt once for all its completions, writes keys and values in place, and lets completions that
have ended leave the batch. A model that remembers other things than keys and values goes through transformers' own
`generate`, drawn in the same way.

Left out on purpose: batches that take up new prompts where others have ended, which is what vLLM is for.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from posttrain.generation.decoder import Decoder, can_decode
from posttrain.generation.llama import LlamaDecoder, is_written_out
from posttrain.generation.sampling import Sampling, pick, uniforms

__all__ = ["Sampling", "generate"]

SYNC_EVERY = 16
"""Steps between looks at which completions have ended, where a look waits for an accelerator."""
FEW = 0.5
"""Share of completions still going on below which the others leave: their keys and values are copied for that."""


class Job(NamedTuple):
    """One completion to write."""

    prompt: tuple[int, ...]
    seed: int
    place: tuple[int, int]
    """Number of the prompt, number of the completion."""


class Batch(NamedTuple):
    """Prompts that are computed together, padded on the left, and the completions that go on from them."""

    ids_PT: torch.Tensor
    mask_PT: torch.Tensor
    rows_N: torch.Tensor
    """The prompt of each completion."""
    uniform_NT: torch.Tensor
    """What each completion is drawn with."""


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts_P: Sequence[Sequence[int]],
    sampling: Sampling,
    end_tokens: Collection[int],
    seeds_PN: Sequence[Sequence[int]],
    *,
    rows: int,
    progress: Callable[[int], None] | None = None,
) -> list[list[list[int]]]:
    """(P, N) completions as token ids, with the end token where one ended; N is the number of seeds of a prompt.

    A completion depends on model, prompt, sampling and its own seed. The batch that it is in changes logits in their
    last bits only, and a completion where a number falls between two of them.

    rows      completions at a time, at most
    progress  is told how many completions have ended since it was last told
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()  # PEFT's, whose adapters are in the layers
    completions: list[list[list[int]]] = [[[] for _ in seeds] for seeds in seeds_PN]
    ends = torch.tensor(sorted(end_tokens), dtype=torch.long, device=model.device)
    write = decode if can_decode(model) else fall_back
    with evaluated(model):
        for jobs in batches(prompts_P, seeds_PN, rows):
            tokens_NT = write(model, pack(jobs, sampling, model.device), sampling, ends, progress or (lambda _: None))
            for job, row in zip(jobs, trimmed(tokens_NT, ends), strict=True):
                completions[job.place[0]][job.place[1]] = row
    return completions


def batches(
    prompts_P: Sequence[Sequence[int]], seeds_PN: Sequence[Sequence[int]], rows: int
) -> Iterator[Sequence[Job]]:
    """Completions to write together, of about equal number; prompts of like length together, the longest first."""
    jobs = [
        Job(tuple(prompt), seed, (number, sample))
        for number, (prompt, seeds) in enumerate(zip(prompts_P, seeds_PN, strict=True))
        for sample, seed in enumerate(seeds)
    ]
    jobs.sort(key=lambda job: (-len(job.prompt), job.prompt))
    count = -(-len(jobs) // rows)
    edges = [len(jobs) * number // count for number in range(count + 1)] if count else []
    return (jobs[start:end] for start, end in pairwise(edges))


def pack(jobs: Sequence[Job], sampling: Sampling, device: torch.device) -> Batch:
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(job.prompt for job in jobs))}
    width = max(map(len, numbers))
    ids_PT = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in numbers])
    mask_PT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in numbers])
    rows_N = torch.tensor([numbers[job.prompt] for job in jobs])
    drawn = sampling.max_new_tokens if sampling.temperature else 0
    uniform_NT = uniforms([job.seed for job in jobs], drawn)
    return Batch(*(tensor.to(device) for tensor in (ids_PT, mask_PT, rows_N, uniform_NT)))


def decode(
    model: PreTrainedModel, batch: Batch, sampling: Sampling, ends: torch.Tensor, progress: Callable[[int], None]
) -> torch.Tensor:
    """Tokens (N, T), arbitrary after the first end token."""
    kind = LlamaDecoder if is_written_out(model) else Decoder
    decoder = kind(model, batch.ids_PT, batch.mask_PT, batch.rows_N, sampling.max_new_tokens)
    tokens_NT = batch.rows_N.new_zeros(len(batch.rows_N), sampling.max_new_tokens)
    going_N, uniform_NT = torch.arange(len(tokens_NT), device=ends.device), batch.uniform_NT
    ended_N, left = torch.zeros_like(going_N, dtype=torch.bool), len(tokens_NT)
    every = 1 if ends.device.type == "cpu" else SYNC_EVERY
    for place in range(sampling.max_new_tokens):
        next_N = pick(decoder.logits_NV, sampling, uniform_NT[:, place : place + 1])
        tokens_NT[going_N, place] = next_N
        ended_N |= torch.isin(next_N, ends)
        if place + 1 == sampling.max_new_tokens:
            break
        if (place + 1) % every == 0:
            before, left = left, int((~ended_N).sum())
            progress(before - left)
            if not left:
                break
            if left <= len(ended_N) * FEW:
                kept_N = (~ended_N).nonzero()[:, 0]
                decoder.keep(kept_N)
                going_N, uniform_NT, next_N = going_N[kept_N], uniform_NT[kept_N], next_N[kept_N]
                ended_N = ended_N[kept_N]
        decoder.step(next_N)
    progress(left)
    return tokens_NT[:, : place + 1]


def fall_back(
    model: PreTrainedModel, batch: Batch, sampling: Sampling, ends: torch.Tensor, progress: Callable[[int], None]
) -> torch.Tensor:
    """Tokens (N, T), arbitrary after the first end token, by transformers' own `generate`."""
    say_so(type(model).__name__)
    plain = {"eos_token_id": ends.tolist() or None, "pad_token_id": 0, "max_new_tokens": sampling.max_new_tokens}
    with configured(model):
        ids_NT = model.generate(
            input_ids=batch.ids_PT[batch.rows_N],
            attention_mask=batch.mask_PT[batch.rows_N],
            generation_config=GenerationConfig(do_sample=False, **plain),
            logits_processor=LogitsProcessorList([Drawn(batch, sampling)]),
        )
    progress(len(ids_NT))
    tokens_NT: torch.Tensor = ids_NT[:, batch.ids_PT.shape[1] :]
    return tokens_NT


class Drawn(LogitsProcessor):
    """Leaves a greedy `generate` no choice but the token that this completion's own number picks."""

    def __init__(self, batch: Batch, sampling: Sampling) -> None:
        self.batch, self.sampling = batch, sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self.batch.ids_PT.shape[1]
        next_N = pick(scores, self.sampling, self.batch.uniform_NT[:, place : place + 1])
        return torch.full_like(scores, -torch.inf).scatter_(1, next_N[:, None], 0.0)


@cache
def say_so(kind: str) -> None:
    print(f"generate | {kind}: by transformers' own generate, which this kind of model needs", flush=True)


def trimmed(tokens_NT: torch.Tensor, ends: torch.Tensor) -> list[list[int]]:
    """Rows up to their first end token."""
    ended_NT = torch.isin(tokens_NT, ends)
    first_N = torch.where(ended_NT.any(1), ended_NT.int().argmax(1) + 1, tokens_NT.shape[1])
    return [row[:length] for row, length in zip(tokens_NT.tolist(), first_N.tolist(), strict=True)]


@contextmanager
def evaluated(model: PreTrainedModel) -> Iterator[None]:
    """No dropout meanwhile."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


@contextmanager
def configured(model: PreTrainedModel) -> Iterator[None]:
    """Without the model's generation_config.json, which adds to what a caller asks for."""
    was, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = was
