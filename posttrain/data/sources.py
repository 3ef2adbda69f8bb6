"""Rows of a dataset as plain dictionaries: a .jsonl file, a folder, or a name on the Hub."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from posttrain.data.table import kept_on_disk
from posttrain.errors import InputError
from posttrain.params.schema import Prepare
from posttrain.paths import SOURCE_DATA, mend_the_path

Row = dict[str, Any]


def load_rows(params: Prepare, split: str) -> list[Row]:
    """The rows of one split, with the named columns as non-empty text.

    Raises: InputError naming the file and line, or the row, that cannot be used.
    """
    where, rows = _load(params, split)
    named = (params.columns.problem, params.columns.solution, params.columns.answer)
    columns = tuple(name for name in named if name is not None)
    if not rows:
        raise InputError(where, got="no rows", wanted="one JSON object a line", do="check prepare.dataset")
    for number, row in enumerate(rows, start=1):
        _check_columns(row, columns, f"{where}: row {number}")
        _check_kept(row, params.columns.keep, f"{where}: row {number}")
    return rows


def load(params: Prepare, split: str, folder: Path) -> Dataset:
    """The rows of one split in the form of a table (posttrain/data/table.py), as Arrow files in `folder`."""
    columns = params.columns

    def row(number: int, found: Row) -> Row:
        texts = {
            "problem": found[columns.problem],
            "answer": found[columns.answer] if columns.answer else "",
            "solutions": [found[columns.solution]] if columns.solution else [],
        }
        kept = json.dumps({name: found[name] for name in columns.keep})
        return {"source": params.dataset, "row": number, **texts, "kept": kept, "use": "both", "fault": None}

    return kept_on_disk(
        folder / split, lambda: (row(number, found) for number, found in enumerate(load_rows(params, split)))
    )


def _load(params: Prepare, split: str) -> tuple[str, list[Row]]:
    path = Path(params.dataset)
    if path.suffix == ".jsonl" or path.is_file():
        return str(path), read_lines(path)
    if (path / f"{split}.jsonl").is_file():
        return str(path / f"{split}.jsonl"), read_lines(path / f"{split}.jsonl")
    if path.is_dir():
        return _load_saved(path, split)
    if params.dataset.startswith((".", "/", "~")):
        raise _no_such_file(path)
    return _load_hub(params, split)


def read_lines(path: Path) -> list[Row]:
    """A JSON Lines file whose every line is an object; empty lines are passed over.

    Raises: InputError naming the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line}",
            got=f"byte {error.start} is not UTF-8",
            wanted="UTF-8 text",
            do=f"convert the file, for example `iconv -f latin1 -t utf-8 {path.name}`",
        ) from None
    # Not splitlines(): JSON strings may hold U+2028 and its kind, which are no line ends here.
    lines = enumerate(text.split("\n"), start=1)
    return [_parse_line(line, f"{path}: line {number}") for number, line in lines if line.strip()]


def _parse_line(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            where, got=f"{error.msg} at column {error.colno}", wanted="one JSON object", do="mend or remove the line"
        ) from None
    if not isinstance(row, dict):
        raise InputError(where, got=type(row).__name__, wanted="one JSON object", do="mend or remove the line")
    return row


def _check_columns(row: Row, columns: tuple[str, ...], where: str) -> None:
    for column in columns:
        value = row.get(column)
        if column not in row:
            raise _no_such_column(row, column, where)
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                where,
                got=f"`{column}` is {value!r:.60}",
                wanted="non-empty text",
                do="mend or remove the row",
            )
        if holds_half_a_pair(value):
            raise InputError(
                where,
                got=f"`{column}` holds half of a surrogate pair, which no UTF-8 file can",
                wanted="text",
                do="mend or remove the row",
            )


def holds_half_a_pair(text: str) -> bool:
    """Half of a surrogate pair, which JSON can escape and no UTF-8 file can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _check_kept(row: Row, columns: list[str], where: str) -> None:
    for column in columns:
        if column not in row:
            raise _no_such_column(row, column, where)
        try:
            json.dumps(row[column], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                where, got=f"`{column}`: {error}", wanted="text, numbers, lists or objects", do="convert the column"
            ) from None


def _no_such_column(row: Row, column: str, where: str) -> InputError:
    return InputError(
        where,
        got=f"columns {', '.join(map(str, row)) or 'none'}",
        wanted=f"a column `{column}`",
        do="set prepare.columns in params.yaml to the names that the data use",
    )


def _load_saved(path: Path, split: str) -> tuple[str, list[Row]]:
    """A folder of `save_to_disk`: one dataset, or one for each split."""
    if not any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise InputError(
            str(path),
            got=f"files {', '.join(sorted(item.name for item in path.iterdir())[:8]) or 'none'}",
            wanted=f"{split}.jsonl, or what `Dataset.save_to_disk` writes",
            do="check prepare.dataset and prepare.train_split / test_split",
        )
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(str(path))
    if isinstance(data, DatasetDict):
        if split not in data:
            raise InputError(
                str(path),
                got=f"splits {', '.join(data)}",
                wanted=f"a split `{split}`",
                do="check prepare.train_split / test_split",
            )
        data = data[split]
    return f"{path} ({split})", data.to_list()


def _load_hub(params: Prepare, split: str) -> tuple[str, list[Row]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if params.revision is None:
        raise InputError(
            "params.yaml: prepare.revision",
            got="null",
            wanted=f"the commit of {params.dataset} to use; a branch moves",
            do="copy it from the dataset's `Files and versions` page",
        )
    try:
        data = load_dataset(params.dataset, params.config, revision=params.revision, split=split)
    except (DatasetNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError, ValueError) as error:
        raise InputError(
            f"params.yaml: prepare.dataset: {params.dataset}",
            got=" ".join(str(error).split())[:300],
            wanted="`equations`, a .jsonl file, a folder, or a Hub dataset that can be reached",
            do="check the name, the split, the revision and the network",
        ) from None
    return f"{params.dataset} ({split})", data.to_list()


def _no_such_file(path: Path) -> InputError:
    return InputError(
        str(path),
        got="no such file or folder",
        wanted="the data of prepare.dataset",
        do=mend_the_path(SOURCE_DATA),
    )
