"""How hard the training problems are for the model that GRPO starts from, and which of them it trains on.

Reads   the model, training rows, `grpo.difficulty`
Writes  .posttrain/difficulty/<key>/, a line a problem as it is measured; results/grpo/difficulty.parquet

A group whose completions all get the same reward teaches nothing. Of a problem that is solved with probability p, a
group of G is so with probability p^G + (1 - p)^G: two thirds of the groups of 8 at 5 %. So a small model learns from
problems that it sometimes solves, and a few samples beforehand say which these are. What is measured is kept by a key
of model, prompts and sampling: a killed run goes on, and another learning rate measures nothing anew.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.errors import InputError
from posttrain.outputs.manifest import beside, publish_files
from posttrain.params.schema import Difficulty
from posttrain.paths import DIFFICULTY, GRPO_RESULTS

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


class Measured:
    """The rates that are on disk for one key, of all processes that wrote there. A line that a kill cut off is passed
    over."""

    def __init__(self, facts: dict[str, Any], process: int = 0) -> None:
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder, self.process = DIFFICULTY / key, process

    def rates(self) -> dict[str, Rate]:
        found: dict[str, Rate] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").split("\n"):
                if line.endswith("}"):
                    rate = Rate(**json.loads(line))
                    found[rate.id] = rate
        return found

    def add(self, rates: Sequence[Rate]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.process}.jsonl").open("a", encoding="utf-8") as file:
            # The first end of line closes what a kill may have left open.
            file.write("\n" + "".join(json.dumps(asdict(rate)) + "\n" for rate in rates))


def measure(
    rows: Sequence[Row],
    measured: Measured,
    attempt: Callable[[Sequence[Row]], list[Rate]],
    at_a_time: int,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Add the rates of `rows` that are not there yet, `at_a_time` problems between two writes."""
    there = measured.rates()
    missing = [row for row in rows if row["id"] not in there]
    progress(len(rows) - len(missing))
    for start in range(0, len(missing), at_a_time):
        some = missing[start : start + at_a_time]
        measured.add(attempt(some))
        progress(len(some))


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
