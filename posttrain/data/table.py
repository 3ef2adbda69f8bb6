"""The rows of all sources in one form, as Arrow files on disk: memory holds a batch of them at a time.

Rows are numbered from 0 through the training split and then the test split; everything that prepare knows of a row is
held by this number.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

FEATURES = Features(
    {
        "source": Value("string"),
        "row": Value("int64"),
        "problem": Value("string"),
        "answer": Value("string"),
        "solutions": List(Value("string")),
        "kept": Value("string"),
        "use": Value("string"),
        "fault": Value("string"),
    }
)
"""`source` and `row` say where the row is from (counted from 0 in its split); `answer` is empty for none; `kept` is
JSON of the columns to keep; `use` is both, sft or grpo; `fault` says why the row cannot be used, and is null else."""

BATCH = 1000


def kept_on_disk(folder: Path, rows: Callable[[], Iterable[dict[str, Any]]]) -> Dataset:
    """The dataset in `folder`; made from the rows if it is not there, and there only once it is whole."""
    if not folder.is_dir():
        made = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        with ArrowWriter(features=FEATURES, path=str(made / "data.arrow"), writer_batch_size=BATCH) as writer:
            for row in rows():
                writer.write(row)
            writer.finalize()
        made.replace(folder)
    return Dataset.from_file(str(folder / "data.arrow"))


@dataclass(frozen=True)
class Table:
    """The training split and, where there is one, the test split."""

    train: Dataset
    test: Dataset | None = None

    def __len__(self) -> int:
        return len(self.train) + (0 if self.test is None else len(self.test))

    @property
    def parts(self) -> list[Dataset]:
        return [self.train] if self.test is None else [self.train, self.test]

    @property
    def text_bytes(self) -> int:
        return sum(int(part.data.nbytes) for part in self.parts)

    def stream(self, *columns: str) -> Iterator[tuple[int, dict[str, list[Any]]]]:
        """Batches in order: the number of the first row, and the columns."""
        number = 0
        for part in self.parts:
            for batch in batches(part, list(columns)):
                yield number, batch
                number += len(batch[columns[0]])

    def row(self, number: int) -> dict[str, Any]:
        first = number < len(self.train)
        part, place = (self.train, number) if first else (self.parts[1], number - len(self.train))
        return dict(part[place])

    def kept(self, number: int) -> dict[str, Any]:
        """The further columns of a row."""
        first = number < len(self.train)
        part, place = (self.train, number) if first else (self.parts[1], number - len(self.train))
        return dict(json.loads(part.data.column("kept")[place].as_py() or "{}"))


def batches(data: Dataset, columns: list[str]) -> Iterator[dict[str, list[Any]]]:
    """From files by reading, not by mapping: pages of a map count as this process's memory until it ends."""
    files = [Path(str(file["filename"])) for file in data.cache_files]
    if files and data._indices is None and sum(map(count, files)) == len(data):
        for file in files:
            with pa.OSFile(str(file)) as opened, pa.ipc.open_stream(opened) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, BATCH):
                        yield batch.slice(start, BATCH).select(columns).to_pydict()
    else:
        yield from data.select_columns(columns).with_format("python").iter(BATCH)


def count(file: Path) -> int:
    with pa.memory_map(str(file)) as opened, pa.ipc.open_stream(opened) as reader:  # touches the headers alone
        return sum(batch.num_rows for batch in reader)
