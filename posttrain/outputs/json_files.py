"""JSON that a stage or another program wrote and anybody may have edited, merged or cut: read with bounds."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.text_files import read_lines, read_text

RESTORE = "restore it with `dvc checkout`, or run its stage again"


def parse(text: str, where: str, do: str) -> Any:
    """Raises: InputError for what is no JSON, is nested too deep, or has integers of thousands of digits"""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        got = f"no JSON: {' '.join(str(error).split())[:120]}"
        raise InputError(where, got=got, wanted="the file as it was written", do=do) from None


def read_object(path: Path, do: str) -> dict[str, Any]:
    """Raises: InputError if a file does not hold a JSON object"""
    return as_object(parse(read_text(path, do), str(path), do), str(path), do)


def read_objects(path: Path, do: str) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON Lines, one at a time.

    Raises: InputError naming the line that is no JSON object
    """
    return objects(read_lines(path, do), str(path), do)


def objects(lines: Iterable[str], where: str, do: str) -> Iterator[dict[str, Any]]:
    """Raises: InputError naming the line that is no JSON object"""
    for number, line in enumerate(lines, start=1):
        if line:
            yield as_object(parse(line, f"{where}: line {number}", do), f"{where}: line {number}", do)


def as_object(content: Any, where: str, do: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(where, got="JSON that is no object", wanted="an object", do=do)
    return content
