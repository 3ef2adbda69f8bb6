"""How hard the training problems are for the model that GRPO starts from, and which of them it trains on.

Reads   the model, training rows, `grpo.difficulty`
Reads and writes  .posttrain/difficulty/KEY.json, the rates of all problems; results/grpo/difficulty.parquet

A group whose completions all get the same reward teaches nothing. Of a problem that is solved with probability p, a
group of G is so with probability p^G + (1 - p)^G: two thirds of the groups of 8 at 5 %. So a small model learns from
problems that it sometimes solves, and a few samples beforehand say which these are. What is measured is kept by a key
of model, problems and sampling: another learning rate measures nothing anew.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.errors import InputError
from posttrain.outputs.json_files import parse
from posttrain.outputs.manifest import beside, publish_files
from posttrain.params.schema import Difficulty
from posttrain.paths import DIFFICULTY, GRPO_RESULTS
from posttrain.text_files import read_text

Row = dict[str, Any]
BINS = 10
TABLE = "difficulty.parquet"


@dataclass(frozen=True)
class Rate:
    """How many of the samples of one problem were right; those without a verdict in time count as wrong."""

    id: str
    right: int
    samples: int

    @property
    def value(self) -> float:
        return self.right / self.samples


@dataclass(frozen=True)
class Selection:
    """The rows to train on, and what was measured of all of them; nothing where `grpo.difficulty` is null."""

    rows: list[Row]
    rates: Sequence[Rate] = ()

    def metrics(self) -> dict[str, float]:
        if not self.rates:
            return {}
        mean = sum(rate.value for rate in self.rates) / len(self.rates)
        kept = {"difficulty/problems": len(self.rates), "difficulty/trained": len(self.rows)}
        return {**kept, "difficulty/pass_rate": mean}

    def lines(self) -> list[str]:
        """For a person."""
        counts = " ".join(map(str, histogram(self.rates)))
        kept = f"{len(self.rows)} of {len(self.rates)} problems train"
        return [f"problems by tenths of the pass rate: {counts}", kept] if self.rates else []

    def publish(self) -> None:
        """results/grpo/difficulty.parquet: {id, right, samples, trains}, without rows if nothing was measured."""
        trains = {row["id"] for row in self.rows}
        found = [{**asdict(rate), "trains": rate.id in trains} for rate in self.rates]
        fields = {"id": pa.string(), "right": pa.int32(), "samples": pa.int32(), "trains": pa.bool_()}
        with beside(GRPO_RESULTS) as out:
            pq.write_table(pa.Table.from_pylist(found, schema=pa.schema(fields)), out / TABLE, compression="zstd")
            publish_files(out, GRPO_RESULTS)


@dataclass(frozen=True)
class Measured:
    """The rates of all problems on disk, by what they depend on: whole or not there."""

    facts: dict[str, Any]

    @property
    def path(self) -> Path:
        return DIFFICULTY / f"{hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()}.json"

    def rates(self) -> list[Rate] | None:
        if not self.path.is_file():
            return None
        do = "remove it: the rates are measured again"
        try:
            return [Rate(**rate) for rate in parse(read_text(self.path, do), str(self.path), do)]
        except TypeError:
            raise InputError(str(self.path), got="other rates", wanted="as they were written", do=do) from None

    def keep(self, rates: Sequence[Rate]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps([asdict(rate) for rate in rates]), encoding="utf-8")
        unfinished.replace(self.path)


def chosen(rows: Sequence[Row], rates: dict[str, Rate], wanted: Difficulty) -> list[Row]:
    """The rows within the bounds; with `order: easy_first` sorted by falling pass rate, in their order among equals."""
    kept = [row for row in rows if wanted.min_pass <= rates[row["id"]].value <= wanted.max_pass]
    if wanted.order == "easy_first":
        kept.sort(key=lambda row: -rates[row["id"]].value)
    return kept


def require_enough(selection: Selection, wanted: Difficulty, prompts: int) -> None:
    """Raises: InputError if not even one step's problems are left"""
    if len(selection.rows) >= prompts:
        return
    counts = " ".join(map(str, histogram(selection.rates)))
    raise InputError(
        "params.yaml: grpo.difficulty",
        got=f"{len(selection.rows)} of {len(selection.rates)} problems with a pass rate from {wanted.min_pass:g} to "
        f"{wanted.max_pass:g}; by tenths: {counts}",
        wanted=f"at least grpo.prompts_per_step={prompts}",
        do="widen the bounds, measure with more samples, or take easier or harder problems",
    )


def histogram(rates: Sequence[Rate]) -> list[int]:
    """Problems by tenths of the pass rate: [0, 0.1), …, [0.9, 1]."""
    counts = [0] * BINS
    for rate in rates:
        counts[min(BINS - 1, rate.right * BINS // rate.samples)] += 1
    return counts
