"""Rows of one file, one after another: JSON Lines, a JSON array, CSV, TSV, Parquet, Arrow; also .gz, .zst, .bz2, .xz.

What a file is stands in its first bytes; its name only tells CSV from TSV from JSON. Memory does not grow with the
file: a row of text may have `ROW_MIB`, more is refused. A row that cannot be read is a `Fault`, and reading goes on.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from posttrain.data.columns import Row, printable
from posttrain.errors import InputError

ROW_MIB = 64
BATCH = 256
"""Rows of a Parquet file in memory at once."""

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

UTF16 = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
OTHERS = {
    b"PK\x03\x04": ("a zip archive or an Excel file", "unpack it, or export it as CSV"),
    b"%PDF": ("a PDF", "name a file with rows"),
    b"SQLite format 3": ("an SQLite database", "export its table as CSV"),
    b"PARE": ("an encrypted Parquet file", "write it again without encryption"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"\x80\x04\x95": ("a pickle", "write its rows as JSON Lines: a pickle runs code"),
    b"version https://git-lfs": ("a pointer of Git LFS, without the data", "run `git lfs pull` in that clone"),
    b"<!doctype html": ("a web page", "download the file itself, not the page about it"),
    b"<html": ("a web page", "download the file itself, not the page about it"),
}
"""First bytes of what people name by mistake, and what to do about it."""

BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What decompressing raises."""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used: `reason: detail`, where equal faults have equal reasons."""

    text: str


Item = Row | Fault


def read_rows(path: Path, columns: list[str] | None = None) -> Iterator[Item]:
    """Every row of a file; of Parquet and Arrow only some columns, if they are named.

    Raises: InputError for a file that is none of the above, or is broken
    """
    require_file(path)
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1"):
        yield from _parquet(path, columns)
    elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        yield from _arrow(path, columns)
    else:
        with _decompressed(path, head) as stream:
            yield from _read_text(stream, path)


def require_file(path: Path) -> None:
    """Raises: InputError unless it is a file that can be read; a pipe or a device might never end."""
    try:
        mode = path.stat().st_mode
        kind = "a folder" if stat.S_ISDIR(mode) else None if stat.S_ISREG(mode) else "a pipe, socket or device"
        if kind is None:
            path.open("rb").close()
            return
    except FileNotFoundError:
        raise no_such_file(path) from None
    except OSError as error:
        kind = str(error.strerror).lower()
    raise refused(path, kind, "a file that can be read", "name a file, and check its permissions and links")


def no_such_file(path: Path) -> InputError:
    kind = "a link to what is not there" if path.is_symlink() else "no such file or folder"
    return refused(path, kind, "the data of prepare.dataset", "mend the path")


def refused(where: object, got: str, wanted: str, do: str) -> InputError:
    return InputError(printable(where), got=printable(got, 400), wanted=printable(wanted, 400), do=printable(do, 600))


def _decompressed(path: Path, head: bytes) -> BinaryIO:
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(path))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.open(path))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def _read_text(stream: BinaryIO, path: Path) -> Iterator[Item]:
    """Rows of text: by name CSV or TSV, by the first character an array or lines."""
    lines = _lines(stream, path)
    first = next(lines, b"")
    while first and not first.strip():
        first = next(lines, b"")
    _require_text(first, path)
    lines = _from(first.removeprefix(b"\xef\xbb\xbf"), lines)
    name = path.name.lower()
    if any(suffix in name for suffix in (".csv", ".tsv")):
        yield from _csv(lines, path)
    elif first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" and ".jsonl" not in name:
        yield from _array(lines, path)
    else:
        yield from _json_lines(lines, path)


def _lines(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Lines with their ends; \\n alone ends one. An empty line is one too.

    Raises: InputError for one that is too long, or a broken compressed file
    """
    number = 0
    while True:
        try:
            line = stream.readline(ROW_MIB << 20)
        except BROKEN as error:
            what, do = f"broken after line {number}: {error or type(error).__name__}", "download or compress it again"
            raise refused(path, what, "a whole compressed file", do) from None
        if not line:
            return
        number += 1
        if len(line) >= ROW_MIB << 20 and not line.endswith(b"\n"):
            where, do = f"{path}: line {number}", "check what the file is; leave the line out"
            raise refused(where, f"a line of more than {ROW_MIB} MiB", "a row a line", do)
        yield line


def _from(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _require_text(head: bytes, path: Path) -> None:
    """Raises: InputError for another encoding or a binary file, named where it is known."""
    for magic, encoding in UTF16.items():
        if head.startswith(magic):
            raise _encoded(path, encoding)
    for magic, (what, do) in OTHERS.items():
        if head[:64].lower().startswith(magic.lower()):
            raise refused(path, what, "JSON, CSV or Parquet", do)
    if head[:4] == b"PAR1":
        raise refused(path, "a compressed Parquet file", "Parquet, which is compressed within", "decompress it")
    if b"\0" in head[:4096]:
        zeros = head[1:64:2].count(0), head[0:64:2].count(0)
        if max(zeros) > 8 and min(zeros) == 0:
            raise _encoded(path, "UTF-16LE" if zeros[0] else "UTF-16BE")
        raise refused(path, "a binary file of an unknown kind", "JSON, CSV or Parquet", "name a file with rows")


def _encoded(path: Path, encoding: str) -> InputError:
    do = f"iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
    return refused(path, f"text in {encoding}", "text in UTF-8", do)


def _decode(line: bytes, where: str) -> str | Fault:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        latin = bytes([byte]).decode("cp1252", "replace")
        return Fault(
            f"not UTF-8: {where}: byte {error.start + 1} is 0x{byte:02x}, `{printable(latin)}` in Latin-1; if the file "
            "is in Latin-1: iconv -f LATIN1 -t UTF-8 FILE > NEW"
        )


# ---------------------------------------------------------------------------------------------------------------------
# JSON


class TwiceError(ValueError):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(next(name for name in names if names.count(name) > 1))
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
LENIENT = json.JSONDecoder(parse_int=str)


def _json_lines(lines: Iterable[bytes], path: Path) -> Iterator[Item]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _json_row(line, f"{printable(path.name)} line {number}")


def _json_row(line: bytes, where: str) -> Item:
    text = _decode(line, where)
    if isinstance(text, Fault):
        return text
    row = _value_of(lambda: DECODER.decode(text.strip(" \t\r\n")), where)
    return row if isinstance(row, (dict, Fault)) else Fault(f"no JSON object: {where}: {type(row).__name__}")


def _value_of(decode: Callable[[], Any], where: str) -> Any:
    """What JSON says, or why it cannot be read."""
    try:
        return decode()
    except json.JSONDecodeError as error:
        return Fault(f"no JSON: {where}: {error.msg} at column {error.colno}")
    except TwiceError as error:
        return Fault(f"a key twice in one object: {where}: `{printable(error, 40)}`")
    except RecursionError:
        return Fault(f"JSON nested too deeply: {where}")
    except ValueError:
        return Fault(f"a number of more digits than Python reads: {where}")


def _array(lines: Iterator[bytes], path: Path) -> Iterator[Item]:
    """Elements of an array. One that is no JSON ends reading: nobody knows where the next begins."""
    buffer, number = _Buffer(lines), 0
    buffer.skip("[")
    while not buffer.skip("]"):
        number += 1
        where = f"{path.name}: element {number}"
        row = buffer.element(where)
        if isinstance(row, Fault) and not buffer.end:
            raise refused(path, row.text, "a JSON array of objects", "mend the file, or write a JSON object a line")
        yield row if isinstance(row, (dict, Fault)) else Fault(f"no JSON object: {where}: {type(row).__name__}")
        if not buffer.skip(",") and buffer.rest[:1] != "]":
            raise refused(path, f"no comma after element {number}", "a JSON array of objects", "mend the file")
    if buffer.skip(""):
        raise refused(path, "more after the end of the array", "one JSON array", "mend the file")


class _Buffer:
    """Text that is read as it is needed."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.lines = lines
        self.rest = ""
        self.end = 0

    def more(self, characters: int) -> bool:
        """Whether there was more to read, at least so many characters of it where there are."""
        parts: list[str] = []
        while characters > 0 and (line := next(self.lines, None)) is not None:
            parts.append(line.decode("utf-8", "surrogateescape"))
            characters -= len(parts[-1])
        self.rest += "".join(parts)
        return bool(parts)

    def skip(self, character: str) -> bool:
        """Pass over white space and one character, and whether it was there; the empty one for anything at all."""
        self.rest = self.rest.lstrip()
        while not self.rest and self.more(1 << 16):
            self.rest = self.rest.lstrip()
        found = bool(self.rest) and self.rest.startswith(character)
        self.rest = self.rest[len(character) :] if found else self.rest
        return found

    def element(self, where: str) -> Any:
        """The value that begins here. Reads as much again until it ends, so nothing is parsed often."""
        self.skip("")
        while True:
            self.end = 0
            value = _value_of(self._decode, where)
            if 0 < self.end < len(self.rest):
                self.rest = self.rest[self.end :]
                return value
            if len(self.rest) > ROW_MIB << 20 or not self.more(max(1 << 16, len(self.rest))):
                return value if isinstance(value, Fault) else Fault(f"no JSON: {where}: the array has no end")

    def _decode(self) -> Any:
        try:
            value, self.end = DECODER.raw_decode(self.rest)
        except ValueError as error:
            if not isinstance(error, json.JSONDecodeError):  # a fault of this element alone: where it ends is known
                self.end = LENIENT.raw_decode(self.rest)[1]
            raise
        return value


# ---------------------------------------------------------------------------------------------------------------------
# CSV


def _csv(lines: Iterator[bytes], path: Path) -> Iterator[Item]:
    """Records as text; the first is the header. One with more or fewer fields is a fault."""
    csv.field_size_limit(ROW_MIB << 20)
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    header = next(texts, "")
    delimiter = max("\t" if ".tsv" in path.name.lower() else ",", ";", "\t", key=header.count)
    reader = csv.reader(_from_text(header, texts), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            where = f"{path}: line {reader.line_num}"
            raise refused(where, f"{error}", "CSV with pairs of quotes", "mend the quotes before this line") from None
        if fields is None:
            return
        if not names:
            names = _header(fields, path)
        elif fields:
            yield _record(names, fields, f"{printable(path.name)} line {reader.line_num}")


def _from_text(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _header(fields: list[str], path: Path) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refused(path, f"column `{twice[0]}` twice", "a header with a name for each column", "rename one")
    return names


def _record(names: list[str], fields: list[str], where: str) -> Item:
    if len(fields) != len(names):
        return Fault(f"another number of fields than the header: {where}: {len(fields)} and not {len(names)}")
    for field in fields:
        text = _decode(field.encode("utf-8", "surrogateescape"), where)
        if isinstance(text, Fault):
            return text
    return dict(zip(names, fields, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Arrow


def _parquet(path: Path, columns: list[str] | None) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=columns):
                yield from rows_of(pa.Table.from_batches([batch]), path.name)
    except (pa.ArrowException, OSError) as error:
        encrypted = "encrypt" in str(error).lower() or "decrypt" in str(error).lower()
        what = "an encrypted Parquet file" if encrypted else f"broken Parquet: {' '.join(str(error).split())}"
        do = "write it again without encryption" if encrypted else "download or write it again"
        raise refused(path, what, "a whole Parquet file", do) from None


def _arrow(path: Path, columns: list[str] | None) -> Iterator[Item]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            stream = source.read(6) != b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)
            batches = reader if stream else (reader.get_batch(n) for n in range(reader.num_record_batches))
            for batch in batches:
                table = pa.Table.from_batches([batch])
                yield from rows_of(table if columns is None else table.select(columns), path.name)
    except (pa.ArrowException, OSError) as error:
        what = f"broken Arrow: {' '.join(str(error).split())}"
        raise refused(path, what, "a whole Arrow file", "download or write it again") from None


def rows_of(table: Any, where: str) -> Iterator[Item]:
    """Rows of an Arrow table, a few at a time. Text in it may be no UTF-8: nothing checks it when it is written."""
    for start in range(0, table.num_rows, BATCH):
        part = table.slice(start, BATCH)
        try:
            yield from part.to_pylist()
        except UnicodeDecodeError:
            for number in range(part.num_rows):
                try:
                    yield from part.slice(number, 1).to_pylist()
                except UnicodeDecodeError as error:
                    yield Fault(f"not UTF-8: {printable(where)}: {error.reason} at byte {error.start + 1} of a text")


# ---------------------------------------------------------------------------------------------------------------------
# All rows at once


def read_lines(path: Path) -> list[Row]:
    """A file of JSON objects, as a list; empty lines are passed over.

    Raises: InputError naming the line.
    """
    rows = list(read_rows(path))
    for row in rows:
        if isinstance(row, Fault):
            raise refused(path, row.text, "one JSON object", "mend or remove the line")
    return [row for row in rows if not isinstance(row, Fault)]
