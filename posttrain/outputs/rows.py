"""Rows of data/prepared, one at a time, whether they are JSON Lines or, where they are many, Parquet."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from posttrain.outputs.json_files import RESTORE, read_objects

ROWS_AT_ONCE = 500


def is_there(folder: Path, name: str) -> bool:
    """Whether there are rows of this name, in either form."""
    return any((folder / f"{name}.{form}").is_file() for form in ("parquet", "jsonl"))


def read_rows(folder: Path, name: str, ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of `name`.parquet if it is there, otherwise of `name`.jsonl; with `ids`, those whose id is one."""
    if (folder / f"{name}.parquet").is_file():
        yield from parquet_rows(folder / f"{name}.parquet", ids)
        return
    rows = read_objects(folder / f"{name}.jsonl", RESTORE)
    yield from (row for row in rows if ids is None or row["id"] in ids)


def parquet_rows(path: Path, ids: Collection[str] | None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            if ids is not None:
                wanted = pc.is_in(batch["id"], pa.array(list(ids), batch.schema.field("id").type))
                batch = batch.filter(wanted)
            yield from batch.to_pylist()
