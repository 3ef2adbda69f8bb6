"""JSON that a stage or another program wrote and anybody may have edited, merged or cut: read with bounds."""

import json
import stat
from pathlib import Path
from typing import Any

from posttrain.errors import InputError

MAX_BYTES = 2**30


def read_text(path: Path, do: str) -> str:
    """The text of a regular file.

    Raises: InputError for what is no file, no UTF-8, or larger than any that a stage writes
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would wait, a device never end
            raise InputError(str(path), got="a folder, a pipe or a device", wanted="a file", do=do)
        if found.st_size > MAX_BYTES:
            raise InputError(str(path), got=f"{found.st_size} bytes", wanted=f"at most {MAX_BYTES}", do=do)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), got=error.strerror or str(error), wanted="a file", do=do) from None
    except UnicodeDecodeError as error:
        raise InputError(str(path), got=f"byte {error.start} is not UTF-8", wanted="UTF-8 text", do=do) from None


def parse(text: str, where: str, do: str) -> Any:
    """Raises: InputError for what is no JSON, is nested too deep, or has integers of thousands of digits"""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        got = f"no JSON: {' '.join(str(error).split())[:120]}"
        raise InputError(where, got=got, wanted="the file as it was written", do=do) from None


def read_object(path: Path, do: str) -> dict[str, Any]:
    """Raises: InputError if a file does not hold a JSON object"""
    content = parse(read_text(path, do), str(path), do)
    if not isinstance(content, dict):
        raise InputError(str(path), got="JSON that is no object", wanted="an object", do=do)
    return content


def read_objects(path: Path, do: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON Lines.

    Raises: InputError naming the line that is no JSON object
    """
    # Not splitlines(): U+2028 and its kind stand unescaped in what write_jsonl wrote.
    numbered = enumerate(read_text(path, do).split("\n"), start=1)
    rows = [parse(line, f"{path}: line {number}", do) for number, line in numbered if line]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(str(path), got="a line that is no JSON object", wanted="an object a line", do=do)
    return rows
