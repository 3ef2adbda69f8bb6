"""Values of a row by name or path, as text, and what to say of a name that is not there."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

Row = dict[str, Any]

SYNONYMS = {
    "problem": ("problem", "question", "query", "prompt", "instruction", "input", "task"),
    "solution": (
        "solution",
        "response",
        "generation",
        "generations",
        "reasoning",
        "trace",
        "cot",
        "rationale",
        "output",
    ),
    "answer": ("answer", "final_answer", "expected_answer", "ground_truth", "gold", "target", "label", "solution"),
}
"""What other people call the columns that `prepare.columns` names, the likeliest first."""

SHOWN_CHARS = 60


class FaultyRow(ValueError):
    """Why a row cannot be used: `reason: detail`, where equal faults have equal reasons."""


class NoSuchColumn(KeyError):
    """A path that leads nowhere in this row."""


def printable(text: object, limit: int | None = None) -> str:
    """Text of a file for a terminal: control characters escaped, at most `limit` characters."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)[: limit or None])
    return line if limit is None or len(str(text)) <= limit else f"{line}..."


@lru_cache(256)
def steps(path: str) -> tuple[str | int, ...]:
    """`reward_model.ground_truth` and `messages[-1].content`, step by step."""
    found = re.findall(r"\[(-?\d+)\]|([^.\[\]]+)", path)
    return tuple(int(index) if index else name for index, name in found)


def top(path: str, columns: Iterable[str]) -> str:
    """The column that holds what a path names."""
    return path if path in columns else str(steps(path)[0]) if steps(path) else path


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of the column of that name, or what the path leads to.

    Raises: NoSuchColumn
    """
    if path in row:
        return row[path]
    value: Any = row
    for step in steps(path):
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise NoSuchColumn(path) from None
    return value


def text_of(value: Any, path: str) -> str:
    """A text that is not empty and that UTF-8 can say.

    Raises: FaultyRow
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise FaultyRow(f"no `{path}`: {'null' if value is None else 'empty'}")
    if not isinstance(value, str):
        raise FaultyRow(f"`{path}` is no text: {printable(repr(value), SHOWN_CHARS)}")
    if holds_half_a_pair(value):
        raise FaultyRow(f"`{path}` holds half of a surrogate pair: no UTF-8 file can")
    return value


def answer_of(value: Any, path: str) -> str:
    """A gold as text. A whole number is its digits, whatever its type (27.0 is `27`); a list of one is what it holds.

    Raises: FaultyRow, also for true, false, NaN and infinity
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value, path)


def traces_of(value: Any, path: str) -> list[str]:
    """Texts of a column with a text, none, or a list of them.

    Raises: FaultyRow
    """
    values = value if isinstance(value, list) else [value]
    return [text_of(one, path) for one in values if one is not None and one != ""]


def holds_half_a_pair(text: str) -> bool:
    """Half of a surrogate pair, which JSON can escape and no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def kept_of(row: Row, paths: Iterable[str]) -> str:
    """The columns to keep, as a JSON object.

    Raises: FaultyRow
    """
    kept: dict[str, Any] = {}
    for path in paths:
        try:
            kept[path] = value_at(row, path)
            text = json.dumps(kept[path], ensure_ascii=False, allow_nan=False)
        except NoSuchColumn:
            raise FaultyRow(f"no `{path}`: no such column") from None
        except (TypeError, ValueError) as error:
            raise FaultyRow(f"`{path}` cannot be kept: {error}") from None
        if holds_half_a_pair(text):
            raise FaultyRow(f"`{path}` holds half of a surrogate pair: no UTF-8 file can")
    return json.dumps(kept, ensure_ascii=False)


def paths_of(rows: Iterable[Row]) -> list[str]:
    """Names of columns, and of what the columns with objects hold."""
    found: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            found[name] = None
            if isinstance(value, dict):
                found.update(dict.fromkeys(f"{name}.{inner}" for inner in value))
    return list(found)


def likely(role: str, name: str, paths: list[str]) -> list[str]:
    """Columns that may be meant by `name`, which is not there, for `problem`, `solution`, `answer` or another role."""
    leaves = {path.lower(): path for path in paths} | {
        path.rpartition(".")[2].lower(): path for path in reversed(paths)
    }
    wanted = [name.lower(), *SYNONYMS.get(role, ())]
    near = [one for word in wanted for one in difflib.get_close_matches(word, leaves, n=1, cutoff=0.8)]
    return list(dict.fromkeys(leaves[one] for one in near))[:3]
