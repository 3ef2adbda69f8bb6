"""Rows of one split of every source, in one form, on disk: `load`.

Reads   a file or folder in data/source, or the Hub, as `prepare.dataset` names them
Writes  an Arrow file for each source into a folder that the caller gives; memory does not grow with the rows

A row that cannot be used stays, with its reason in `fault` and nothing in the other columns: who calls counts it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data.columns import printable
from posttrain.data.files import files_of_split, is_saved, require_dep
from posttrain.data.hub import load_hub
from posttrain.data.mixture import mixed
from posttrain.data.readers import COMPRESSED, SUFFIXES, Item, read_rows, refused, rows_of
from posttrain.data.recognition import PEEK, Stored, records, taken
from posttrain.data.table import kept_on_disk
from posttrain.errors import InputError
from posttrain.params.schema import Prepare, Source

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def load(params: Prepare, split: str, folder: Path) -> "Dataset":
    """Rows of one split of all sources, `prepare.train_split` or `test_split`, memory mapped.

    Columns: source, row (its number in the source's split, before slicing), problem, answer (empty for none),
    solutions (a list), kept (JSON), use, fault (null, or `reason: detail`).

    Raises: InputError for a source that cannot be used at all
    """
    from datasets import concatenate_datasets

    testing = split == params.test_split != params.train_split
    parts, weights = [], []
    for number, source in enumerate(params.sources):
        wanted = source.test_split if testing else source.train_split
        if wanted is None or (testing and source.use == "sft"):
            continue
        parts.append(_load_source(source, params, wanted, folder / f"{'test' if testing else 'train'}-{number}"))
        weights.append(source.weight)
    if not parts:
        raise refused("params.yaml: prepare.dataset", f"no source with `{split}`", "one", "give a source a test_split")
    if not testing and None not in weights:
        parts = mixed(parts, [weight for weight in weights if weight is not None])
        _say_shares(parts)
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _say_shares(parts: list["Dataset"]) -> None:
    counts = [sum(fault is None for fault in part["fault"]) for part in parts]
    for part, count in zip(parts, counts, strict=True):
        print(
            f"prepare | {printable(part[0]['source'])}: {count} rows, {count / max(1, sum(counts)):.1%} of the mixture"
        )


def _load_source(source: Source, params: Prepare, spec: str, folder: Path) -> "Dataset":
    """The rows of a split or slice of one source, on disk."""
    split, slices = _parse_split(spec)
    stored = _find(source, split)
    chosen = taken(source, params, stored)
    print(f"prepare | {printable(stored.where)}: {chosen.says}")
    data = kept_on_disk(folder, lambda: records(stored, chosen, source, _end_of(slices)))
    if len(data) == 0:
        raise refused(stored.where, "no rows", "one at least", "check prepare.dataset")
    return _sliced(data, spec, split) if slices else data


# ---------------------------------------------------------------------------------------------------------------------
# Where the rows are


def _find(source: Source, split: str) -> Stored:
    path = Path(source.dataset)
    if not _is_local(source.dataset):
        data = load_hub(source, split)
        return Stored(f"{source.dataset} ({split})", lambda columns: _rows_of_dataset(data, columns))
    require_dep(path)
    if path.is_dir() and is_saved(path):
        return _saved(path, split)
    files = files_of_split(path, source.config, split)
    where = str(path) if len(files) == 1 and files[0] == path else f"{path} ({split}, {len(files)} files)"
    where = str(files[0]) if len(files) == 1 else where

    def rows(columns: list[str] | None) -> Iterator[Item]:
        for file in files:
            yield from read_rows(file, columns)

    return Stored(where, rows)


def _is_local(dataset: str) -> bool:
    path = Path(dataset)
    named = dataset.startswith((".", "/", "~", "data/")) or path.suffix in (*SUFFIXES, *COMPRESSED)
    return named or not HUB_NAME.fullmatch(dataset) or path.exists() or path.is_symlink()


def _saved(path: Path, split: str) -> Stored:
    """A folder of `save_to_disk`: one dataset, or one for each split."""
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        data: Any = load_from_disk(str(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, pa.ArrowException) as error:
        what = f"what `load_from_disk` cannot read: {' '.join(str(error).split())}"
        raise refused(path, what, "a folder of `Dataset.save_to_disk`", "write it again") from None
    splits = {str(name): part for name, part in data.items()} if isinstance(data, DatasetDict) else {"train": data}
    if split not in splits:
        do = "check prepare.train_split / test_split"
        raise refused(path, f"splits {', '.join(splits)}", f"a split `{split}`", do)
    chosen: Dataset = splits[split]
    return Stored(f"{path} ({split})", lambda columns: _rows_of_dataset(chosen, columns))


def _rows_of_dataset(data: "Dataset", columns: list[str] | None) -> Iterator[Item]:
    chosen = data if columns is None else data.select_columns(columns)
    for table in chosen.with_format("arrow").iter(PEEK):
        yield from rows_of(table, "the dataset")


# ---------------------------------------------------------------------------------------------------------------------
# Slices


def _parse_split(spec: str) -> tuple[str, str]:
    """Name and slice of `train[10%:20%]`."""
    match = re.fullmatch(r"([^\[\]+]+)((?:\[[^\[\]]*\])?)", spec.strip())
    if match is None:
        raise _no_slice(spec)
    return match[1], match[2]


def _no_slice(spec: str) -> InputError:
    wanted = "a split such as train, train[:100], train[10%:20%] or train[-5:]"
    return refused("params.yaml: prepare.train_split / test_split", spec, wanted, "mend it")


def _end_of(slices: str) -> int | None:
    """The row after which a slice needs none, as far as that is known before the rows are counted."""
    match = re.fullmatch(r"\[\d*:(\d+)\]", slices)
    return int(match[1]) if match else None


def _sliced(data: "Dataset", spec: str, split: str) -> "Dataset":
    from datasets import ReadInstruction

    try:
        (part,) = ReadInstruction.from_spec(spec.strip()).to_absolute({split: len(data)})
    except (ValueError, AssertionError):
        # Beyond the end is no fault in a slice of Python's.
        numbers = re.fullmatch(r"[^\[]+\[(-?\d*):(-?\d*)\]", spec.strip())
        if numbers is None:
            raise _no_slice(spec) from None
        begin, end, _ = slice(*(int(n) if n else None for n in numbers.groups())).indices(len(data))
        return _some(data, begin, end, spec)
    return _some(data, part.from_ or 0, len(data) if part.to is None else part.to, spec)


def _some(data: "Dataset", begin: int, end: int, spec: str) -> "Dataset":
    if end <= begin:
        raise refused(f"params.yaml: prepare: {spec}", f"no rows of {len(data)}", "one at least", "widen the slice")
    return data.select(range(begin, end))
