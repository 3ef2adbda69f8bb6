"""Completions, kept by what determines them: a model that was asked the same before is not asked again.

Reads and writes  .posttrain/completions/KEY.jsonl, a batch of problems each, one problem a line

The key is a hash of the model's files, the tokens of the batch's prompts, seeds, sampling, end tokens, dtype, and of
what writes (versions, code, device). Batches are cut the same whatever is there already, so a run that was killed goes
on from its last batch and ends with the same bytes. The oldest batches go when there is no more room; the folder may be
removed at any time.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from posttrain.generation.engine import Sampling
from posttrain.generation.generators import Generator, Tokens, require_whole
from posttrain.outputs.manifest import files_of, sha256_all
from posttrain.paths import COMPLETIONS

FORMAT = 1
ROOM = 2 * 2**30
"""Bytes that the folder may take."""
NOT_OF_THE_WEIGHTS = ("README.md", "manifest.json", "generation_config.json", "chat_template.jinja")
"""Files of a model folder that change no token of a given prompt."""


@dataclass(frozen=True)
class Order:
    """Completions to be written by one model."""

    model: str
    """Hash of its files."""
    name: str
    prompts_P: Sequence[Sequence[int]]
    seeds_PN: Sequence[Sequence[int]]
    sampling: Sampling
    end_tokens: frozenset[int]

    def batches(self, size: int) -> Iterator[list[int]]:
        """Numbers of the prompts that are computed together: of like length, the longest first."""
        order = sorted(range(len(self.prompts_P)), key=lambda number: -len(self.prompts_P[number]))
        return (order[start : start + size] for start in range(0, len(order), size))


def model_hash(folder: Path) -> str:
    """Of weights, config and tokenizer."""
    kept = [path for path in files_of(folder) if path.name not in NOT_OF_THE_WEIGHTS]
    found = {str(path.relative_to(folder)): value for path, value in sha256_all(kept).items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def completions(order: Order, generator: Generator, folder: Path = COMPLETIONS) -> Tokens:
    """The completions of every prompt, each whole.

    Raises: PosttrainError if the generator gives one that is not
    """
    found: dict[int, list[list[int]]] = {}
    for numbers, tokens in by_batch(order, generator, list(order.batches(generator.batch_size)), folder):
        found |= dict(zip(numbers, tokens, strict=True))
    return [found[number] for number in range(len(order.prompts_P))]


def by_batch(
    order: Order, generator: Generator, batches: Sequence[list[int]], folder: Path = COMPLETIONS
) -> Iterator[tuple[list[int], Tokens]]:
    """The completions of some of the order's batches, one after the other: all of them may not fit into memory."""
    total = sum(len(order.seeds_PN[number]) for numbers in batches for number in numbers)
    with tqdm(total=total, desc=order.name, unit="completion", disable=None) as bar:
        for numbers in batches:
            prompts, seeds = ([every[n] for n in numbers] for every in (order.prompts_P, order.seeds_PN))
            path = place(order, prompts, seeds, generator, folder)
            tokens = kept(path, order, seeds)
            if tokens is None:
                tokens = generator.write(prompts, order.sampling, order.end_tokens, seeds, bar.update)
                require_all_whole(tokens, order)
                keep(path, tokens)
            else:
                bar.update(sum(map(len, seeds)))
            yield numbers, tokens
    forget(folder, ROOM)


def require_all_whole(tokens: Tokens, order: Order) -> None:
    for samples in tokens:
        for sample in samples:
            require_whole(sample, order.end_tokens, order.sampling.max_new_tokens, order.name)


def place(order: Order, prompts: Any, seeds: Any, generator: Generator, folder: Path) -> Path | None:
    """Where the batch is kept; None if it is not known yet what would write it."""
    identity = generator.identity
    if identity is None:
        return None
    facts = {
        "format": FORMAT,
        "model": order.model,
        "generator": identity,
        "sampling": vars(order.sampling),
        "end_tokens": sorted(order.end_tokens),
        "prompts": prompts,
        "seeds": seeds,
    }
    return folder / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}.jsonl"


def kept(path: Path | None, order: Order, seeds: Sequence[Sequence[int]]) -> Tokens | None:
    """What the file holds, if it holds whole completions, as many as were asked for."""
    try:
        if path is None:
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
        os.utime(path)
        tokens: Tokens = [json.loads(line) for line in lines]
        if [len(samples) for samples in tokens] != [len(row) for row in seeds]:
            return None
        require_all_whole(tokens, order)
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, its content can be had again
        return None
    return tokens


def keep(path: Path | None, tokens: Tokens) -> None:
    """Write a batch whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in tokens), encoding="utf-8")
    unfinished.replace(path)


def forget(folder: Path, room: int) -> None:
    """Remove what was read or written longest ago until the rest has room."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.*"))
    excess = sum(size for _, size, _ in files) - room
    for _, size, path in files:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
