"""Rows of completions for `posttrain rewards`: JSON Lines or Parquet, a person's own or what the stages publish.

Reads   FILE, and data/prepared/ for the golds and columns of rows that name their problem alone
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from posttrain.data.columns import Row, holds_half_a_pair
from posttrain.data.readers import read_lines
from posttrain.errors import InputError
from posttrain.outputs.rows import is_there, read_rows
from posttrain.paths import PREPARED

NAMES = {
    "prompt": ("problem", "question", "input", "instruction", "query"),
    "completion": ("response", "output", "generation", "generated_text", "prediction", "text", "model_output"),
    "gold": ("answer", "ground_truth", "solution", "target", "label", "reference", "expected_answer"),
}
"""What is asked for, and what other programs call it."""


def read_completions(path: Path) -> list[Row]:
    """One row for each completion, with `problem`, `completion` and `answer` as text and other columns as they are.

    `source` is the key that held a completion in a row of several, such as `before` in results/grpo/samples.jsonl.

    Raises: InputError naming the file or the row that cannot be used.
    """
    numbered = list(enumerate(read_file(path), start=1))
    unit = "row" if is_parquet(path) else "line"
    rows = [to_row(one, f"{path}: {unit} {number}") for number, row in numbered for one in completions_of(row)]
    if not rows:
        raise InputError(
            str(path),
            got="no rows",
            wanted="one completion a row",
            do="check the file; the grpo stage keeps completions if grpo.keep_completions_steps is above 0",
        )
    return with_golds(rows)


def read_file(path: Path) -> list[Row]:
    require_file(path)
    if is_parquet(path):
        return read_parquet(path)
    return read_lines(path)


def require_file(path: Path) -> None:
    try:
        kind = "folder" if path.is_dir() else "pipe or device" if path.exists() and not path.is_file() else None
        if kind is None:
            path.open("rb").close()
            return
    except OSError as error:
        kind = error.strerror.lower() if error.strerror else type(error).__name__
    folder = path if path.is_dir() else path.parent
    found = sorted(str(one) for end in ("jsonl", "parquet") for one in folder.glob(f"*.{end}") if one.is_file())
    like = difflib.get_close_matches(str(path), found, n=3, cutoff=0) if found else []
    raise InputError(
        str(path),
        got=kind,
        wanted="a .jsonl or .parquet file of completions",
        do=f"name a file, such as {', '.join(like)}" if like else "check the path",
    )


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(str(path), got=f"{error}"[:300], wanted="a Parquet file", do="write it again") from None
    return rows


def completions_of(row: Row) -> Iterator[Row]:
    """The row, or one row for each completion that it holds."""
    parts = {key: value for key, value in row.items() if isinstance(value, dict) and value.keys() & HOLD}
    rest = {key: value for key, value in row.items() if key not in parts}
    if not parts:
        yield from several(row, {})
    for source, part in parts.items():
        yield from several(part, {**rest, "source": source})


HOLD = {"completion", "completions"}


def several(part: Row, rest: Row) -> Iterator[Row]:
    texts = part.get("completions")
    if isinstance(texts, list) and "completion" not in part:
        own = {} if rest else {key: value for key, value in part.items() if key != "completions"}
        for text in texts:
            yield {**rest, **own, "completion": text}
    else:
        yield {**rest, **part} if not rest else {**rest, "completion": part.get("completion")}


def to_row(row: Row, where: str) -> Row:
    """The row as rewards see it.

    Raises: InputError
    """
    if "completion" not in row:
        raise no_column(row, "completion", where)
    if not row.keys() & {"prompt", "problem"} and near(row, "prompt"):
        raise no_column(row, "prompt", where)
    problem, gold = row.get("problem", row.get("prompt", "")), row.get("answer", row.get("gold", ""))
    found = {"prompt": last_content(problem), "completion": last_content(row["completion"]), "gold": gold}
    for column, value in found.items():
        if not isinstance(value, str):
            raise InputError(
                where,
                got=f"`{column}` is {value!r:.60}",
                wanted="text, or a list of chat messages",
                do="give each line a prompt, a completion and a gold",
            )
        if holds_half_a_pair(value):
            raise InputError(
                where, got=f"`{column}` holds half of a surrogate pair", wanted="text", do="mend or remove the row"
            )
    return {**row, "problem": found["prompt"], "completion": found["completion"], "answer": found["gold"].strip()}


def near(row: Row, name: str) -> list[str]:
    """Columns that look like the one asked for."""
    columns = [str(column) for column in row]
    known = [column for column in columns if column.lower() in NAMES[name]]
    return known + difflib.get_close_matches(name, columns, n=1, cutoff=0.7)


def no_column(row: Row, name: str, where: str, needing: Sequence[str] = ()) -> InputError:
    found = near(row, name)
    purpose = f", which {', '.join(needing)} of params.yaml need" if needing else ""
    return InputError(
        where,
        got=f"columns {', '.join(map(repr, row))[:300] or 'none'}",
        wanted=f"a column `{name}`{purpose}",
        do=f"rename `{found[0]}` if that is it" if found else "give each row a prompt, a completion and a gold",
    )


def last_content(messages: Any) -> Any:
    """The text of the last chat message, also of a conversation in JSON; anything else as it is."""
    if isinstance(messages, str) and messages.startswith('[{"'):
        try:
            read = json.loads(messages)
        except (ValueError, RecursionError):
            return messages
        return last_content(read) if isinstance(last_content(read), str) else messages
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return messages[-1].get("content")
    return messages


def with_golds(rows: list[Row]) -> list[Row]:
    """Rows that say no gold get it, and the further columns, from the row of data/prepared with their problem."""
    if all(row["answer"] for row in rows):
        return rows
    asked = {row["problem"] for row in rows if not row["answer"]}
    splits = [split for split in ("test", "train") if is_there(PREPARED, split)]
    known = {row["problem"]: row for split in splits for row in read_rows(PREPARED, split) if row["problem"] in asked}
    return [
        {**known[row["problem"]], **row, "answer": known[row["problem"]].get("answer", "")}
        if not row["answer"] and row["problem"] in known
        else row
        for row in rows
    ]
