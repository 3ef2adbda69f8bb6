"""What prepare writes: rows for SFT, GRPO and evaluation, and the fate of every row of the sources."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.problems import TEST, Problems
from posttrain.data.rules import ordered
from posttrain.data.traces import Traces

LARGE = 100 * 2**20
"""Characters of traces from which on they are written as Parquet."""
ROW_GROUP = 5000

SFT = pa.schema([(name, pa.large_string()) for name in ("id", "problem", "completion")])


def write(problems: Problems, traces: Traces, out: Path) -> dict[str, int]:
    """The files of data/prepared; how many rows each has."""
    traces.collect()
    for_grpo = [row for row in traces.order if problems.uses[row] != "sft"]
    counts = {"sft": write_traces(traces.rows(), out, large=traces.shuffle.bytes > LARGE)}
    for name, rows in (("train", for_grpo), ("test", ordered(problems, TEST))):
        counts[name] = write_lines(out / f"{name}.jsonl", (problem_row(problems, row) for row in rows))
    pq.write_table(fates(problems, traces), out / "fates.parquet", compression="zstd")
    return counts


def problem_row(problems: Problems, row: int) -> dict[str, Any]:
    kept = problems.table.kept(row) if problems.params.columns.keep else {}
    flag = {"contaminated": True} if row in problems.contaminated else {}
    return {**kept, **flag, "id": problems.id(row), "problem": problems.texts[row], "answer": problems.golds[row]}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    number = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


def write_traces(rows: Iterator[dict[str, str]], out: Path, large: bool) -> int:
    if not large:
        return write_lines(out / "sft.jsonl", rows)
    number = 0
    with pq.ParquetWriter(out / "sft.parquet", SFT, compression="zstd", use_dictionary=False) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, SFT))
            number += len(group)
    return number


def fates(problems: Problems, traces: Traces) -> pa.Table:
    """One row for each row of the sources: where it is from, its id, and what became of it."""
    names = [rule.name for rule in problems.applied]
    numbers = range(len(problems))
    columns = {
        "source": pa.array(problems.sources).dictionary_encode(),
        "row": pa.array(problems.source_rows, pa.int64()),
        "split": pa.array(["test" if part == TEST else "train" for part in problems.part]).dictionary_encode(),
        "id": pa.array([problems.id(row) for row in numbers]),
        "fate": pa.array(["kept" if fate == -1 else names[fate] for fate in problems.fate]).dictionary_encode(),
        "into": pa.array([None if into == -1 else problems.name(into) for into in problems.into.tolist()], pa.string()),
        "note": pa.array([problems.notes.get(row) for row in numbers], pa.string()),
        "traces_left_out": pa.array([", ".join(traces.fates.get(row, [])) or None for row in numbers], pa.string()),
    }
    return pa.table(columns)
