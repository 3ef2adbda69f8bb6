"""The files with a model's weights, looked at without loading them: names, types and shapes of the tensors, and whether
every value is a finite number.

Reads   model.safetensors, or the files that model.safetensors.index.json names
"""

import json
import math
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.outputs.json_files import read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}
"""Bits that are all set in what is no finite number."""
LONGEST_HEADER = 100_000_000
"""Bytes; that of the safetensors library."""
CHUNK = 1 << 22
"""Values that are looked at together."""


@dataclass(frozen=True)
class Tensor:
    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""
    end: int


def read_weights(folder: Path) -> list[Tensor]:
    """The tensors of a model folder, from the headers of its files; none for weights in pickles, which have no header.

    Raises: InputError naming the file that is missing, cut off or no safetensors
    """
    found = [tensor for path in weight_files(folder) for tensor in read_tensors(path)]
    twice = {tensor.name for tensor in found} if len({tensor.name for tensor in found}) < len(found) else set()
    if twice:
        raise wrong(folder / INDEX, "tensors that are in two of its files")
    return found


def weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        if any((folder / name).is_file() for name in PICKLED):
            return []
        raise wrong(folder, f"a model folder without weights: neither {SINGLE} nor {INDEX}")
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise wrong(folder / INDEX, "an index that names no files")
    files = [folder / name for name in sorted(set(names.values()))]
    if missing := [path.name for path in files if not path.is_file()]:
        raise wrong(folder, f"{', '.join(missing[:4])} missing, which {INDEX} names")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """Raises: InputError if a file does not hold a JSON object"""
    return read_object(path, "copy or download the model again, or name another")


def read_tensors(path: Path) -> list[Tensor]:
    """Raises: InputError if the file is not what its header says"""
    size = path.stat().st_size
    try:
        header, length = read_header(path)
        header.pop("__metadata__", None)
        tensors = [as_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    except (struct.error, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise wrong(path, f"no safetensors: {' '.join(str(error).split())[:120] or type(error).__name__}") from None
    end = max((tensor.end for tensor in tensors), default=8 + length)
    if end != size:
        raise wrong(
            path, f"{size} bytes, and a header that says {end}: {'cut off' if end > size else 'more than that'}"
        )
    return tensors


def read_header(path: Path) -> tuple[Any, int]:
    """The JSON that a safetensors file begins with, and its length in bytes.

    Raises: ValueError or struct.error if there is none
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"a header of {length} bytes, in a file of {size}")
        return json.loads(file.read(length)), length


def as_tensor(path: Path, name: str, entry: dict[str, Any], origin: int) -> Tensor:
    (start, end), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), str(entry["dtype"])
    if not all(isinstance(number, int) and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"{name} has odd numbers")
    if end - start != math.prod(shape) * BYTES.get(dtype, 0) and dtype in BYTES:
        raise ValueError(f"{name} of shape {list(shape)} in {end - start} bytes")
    return Tensor(path, name, dtype, shape, origin + start, origin + end)


@dataclass(frozen=True)
class Look:
    """What was seen of the values."""

    lost: Tensor | None
    """The first with a value that is no finite number."""
    read: int
    """Bytes."""
    all_read: bool


def look_at_values(tensors: Iterable[Tensor], seconds: float) -> Look:
    """The values of one tensor after another, for so many seconds at most."""
    import numpy as np

    deadline, read = time.monotonic() + seconds, 0
    for tensor in tensors:
        bits = EXPONENTS.get(tensor.dtype)
        if bits is None:
            continue
        for values in chunks(tensor):
            if np.any(values & bits == bits):
                return Look(tensor, read, all_read=False)
            read += values.nbytes
            if time.monotonic() > deadline:
                return Look(None, read, all_read=False)
    return Look(None, read, all_read=True)


def chunks(tensor: Tensor) -> Iterator[Any]:
    import numpy as np

    size = BYTES[tensor.dtype]
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        for left in range((tensor.end - tensor.start) // size, 0, -CHUNK):
            yield np.fromfile(file, f"<u{size}", min(CHUNK, left))


def wrong(path: Path, got: str) -> InputError:
    return InputError(
        str(path), got=got, wanted="a model whose files are whole", do="copy or download it again, or name another"
    )
