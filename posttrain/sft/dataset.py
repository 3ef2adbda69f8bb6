"""The tokens that TRL trains on, as an Arrow file: memory holds a batch of them at a time.

Writes  dataset/ in the folder that a run of the stage has for itself, which goes with it

One process of each machine writes, the others wait and read. Nothing is kept for the next run.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.errors import InputError
from posttrain.launch.layout import world_size
from posttrain.outputs.manifest import write_json
from posttrain.params.schema import Params
from posttrain.sft.traces import Example, examples

IGNORED = -100
"""The label of a token that is not trained on."""
SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in ("input_ids", "labels")])
TOKENS, COUNTS = "tokens.arrow", "counts.json"
SHOWN = 10
"""Problems with traces that are too long, which are named."""


@dataclass
class Lengths:
    """How many traces there are, and those that are longer than sft.max_length."""

    traces: int = 0
    longest: int = 0
    too_long: int = 0
    too_long_ids: list[str] = field(default_factory=list)
    """Ids of the problems of the first few."""

    def fits(self, example: Example, limit: int) -> bool:
        """Whether a trace is short enough; counts it."""
        length = len(example.prompt) + len(example.completion)
        self.traces, self.longest = self.traces + 1, max(self.longest, length)
        if length <= limit:
            return True
        self.too_long += 1
        if len(self.too_long_ids) < SHOWN and example.id not in self.too_long_ids:
            self.too_long_ids.append(example.id)
        return False

    @property
    def metrics(self) -> dict[str, object]:
        return {"too_long": self.too_long, "too_long_ids": self.too_long_ids}

    def told(self) -> str:
        """A line of the console; what became of an id, `posttrain data --why` tells."""
        more = ", ..." if len(self.too_long_ids) == SHOWN else ""
        named = f" (those of {', '.join(self.too_long_ids)}{more})" if self.too_long else ""
        return (
            f"{self.traces - self.too_long} traces; {self.too_long} left out, longer than sft.max_length{named}; "
            f"the longest has {self.longest} tokens"
        )


def to_dataset(
    rows: Iterable[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params, folder: Path
) -> tuple[Dataset, Lengths]:
    """Tokens of prompts and completions with the labels of those trained on, and what was left out for length.

    Raises: InputError if none is short enough.
    """
    place = writers(folder / "dataset")
    if place.parent == folder:
        write(rows, tokenizer, params, place)
    while not place.is_dir():  # a collective would give up after a while; whoever ends the writer ends us
        time.sleep(0.1)
    lengths = Lengths(**json.loads((place / COUNTS).read_text(encoding="utf-8")))
    return Dataset.from_file(str(place / TOKENS)), lengths


def writers(place: Path) -> Path:
    """The place that the first process of this machine has for its own `place`."""
    if world_size() == 1:
        return place
    state, places = PartialState(), gather_object([str(place)])
    return Path(places[state.process_index - state.local_process_index])


def write(rows: Iterable[dict[str, str]], tokenizer: PreTrainedTokenizerBase, params: Params, place: Path) -> None:
    """The folder `place`, there only once it is whole.

    Raises: InputError
    """
    part, lengths = place.with_name(f"{place.name}.part"), Lengths()
    part.mkdir(parents=True)
    with pa.OSFile(str(part / TOKENS), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        for batch in examples(rows, tokenizer, params):
            stream.write_batch(pa.RecordBatch.from_pylist(list(fitting(batch, lengths, params)), SCHEMA))
    if lengths.too_long == lengths.traces:
        raise InputError(
            "params.yaml: sft.max_length",
            got=f"{params.require_sft().max_length}; all {lengths.traces} traces are longer",
            wanted=f"room for them; the longest has {lengths.longest} tokens",
            do="raise sft.max_length",
        )
    write_json(part / COUNTS, asdict(lengths))
    part.replace(place)


def fitting(batch: list[Example], lengths: Lengths, params: Params) -> Iterator[dict[str, list[int]]]:
    """What TRL takes of the traces that are short enough."""
    sft = params.require_sft()
    completion_only = sft.trl.get("completion_only_loss", True)
    for example in batch:
        if lengths.fits(example, sft.max_length):
            prompt, completion = example.prompt, example.completion
            labels = ([IGNORED] * len(prompt) if completion_only else prompt) + completion
            yield {"input_ids": prompt + completion, "labels": labels}
