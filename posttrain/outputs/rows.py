"""Rows of data/prepared, one at a time, whether they are JSON Lines or, where they are many, Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS_AT_ONCE = 500


def read_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of `name`.parquet if it is there, otherwise of `name`.jsonl."""
    if (folder / f"{name}.parquet").is_file():
        import pyarrow.parquet as pq

        with pq.ParquetFile(folder / f"{name}.parquet") as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()
        return
    # Iterating over a file splits at line feeds alone, if told so: U+2028 and its kind stand unescaped in there.
    with (folder / f"{name}.jsonl").open(encoding="utf-8", newline="\n") as file:
        yield from (json.loads(line) for line in file)
