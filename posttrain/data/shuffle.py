"""Texts put into another order than they come in, with little of them in memory at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

BUCKET_BYTES = 64 * 2**20
"""About what is in memory when texts are read back."""
BUFFER_CHARS = 2**20

SCHEMA = pa.schema([("place", pa.int64()), ("row", pa.int64()), ("text", pa.large_string())])


class Shuffle:
    """Files that take texts, each file those of a range of places, and give them back in the order of places.

    Texts of one place keep the order in which they came.
    """

    def __init__(self, folder: Path, places: int, text_bytes: int) -> None:
        self.places, self.number = max(1, places), 1 + text_bytes // BUCKET_BYTES
        self._files = [pa.OSFile(str(folder / f"texts-{bucket}.arrow"), "wb") for bucket in range(self.number)]
        self._paths = [folder / f"texts-{bucket}.arrow" for bucket in range(self.number)]
        self._writers = [pa.ipc.new_stream(file, SCHEMA) for file in self._files]
        self._waiting: list[list[tuple[int, int, str]]] = [[] for _ in self._paths]
        self._chars = [0] * self.number
        self.bytes = 0
        """Characters that came in so far, about."""

    def add(self, place: int, row: int, text: str) -> None:
        bucket = place * self.number // self.places
        self._waiting[bucket].append((place, row, text))
        self._chars[bucket] += len(text)
        self.bytes += len(text)
        if self._chars[bucket] > BUFFER_CHARS:
            self._write(bucket)

    def _write(self, bucket: int) -> None:
        if waiting := self._waiting[bucket]:
            columns = [pa.array(column, field.type) for column, field in zip(zip(*waiting), SCHEMA)]  # noqa: B905
            self._writers[bucket].write_batch(pa.record_batch(columns, SCHEMA))
        self._waiting[bucket], self._chars[bucket] = [], 0

    def ordered(self) -> Iterator[tuple[int, int, str]]:
        """(place, row, text) by place; the files go as they are read."""
        for bucket in range(self.number):
            self._write(bucket)
            self._writers[bucket].close()
            self._files[bucket].close()
        for path in self._paths:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                found = reader.read_all()
            path.unlink()
            columns = [column.to_pylist() for column in found.columns]
            yield from sorted(zip(*columns, strict=True), key=lambda item: int(item[0]))
