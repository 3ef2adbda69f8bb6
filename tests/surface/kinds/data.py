"""Files of problems in data/source, through `posttrain prepare`."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from posttrain.params.file import read_yaml
from tests.surface import faults
from tests.surface.case import Case

ROWS: list[dict[str, Any]] = [
    {
        "problem": f"Solve: {a}x + {b} = {a * 3 + b}",
        "solution": f"{a}x = {a * 3}, so x = 3.",
        "answer": "x = 3",
        "id": a * 10 + b,
        "nested": {"level": [1, 2], "of": {"it": "x"}},
    }
    for a in range(2, 6)
    for b in range(1, 5)
]


def lines(rows: list[dict[str, Any]] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table() -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name in ROWS[0] if name != "nested"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet(form: str = "parquet") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, rows = io.BytesIO(), pa.Table.from_pylist(ROWS)
    if form == "parquet":
        pq.write_table(rows, out)
    else:
        with pa.ipc.new_file(out, rows.schema) as writer:
            writer.write_table(rows)
    return out.getvalue()


FORMS = {
    "jsonl": lines,
    "json": lambda: json.dumps(ROWS).encode(),
    "csv": table,
    "parquet": parquet,
    "arrow": lambda: parquet("arrow"),
    "jsonl.gz": lambda: gzip.compress(lines()),
    "jsonl.bz2": lambda: bz2.compress(lines()),
    "jsonl.xz": lambda: lzma.compress(lines()),
}


@st.composite
def odd_row(draw: st.DrawFn) -> faults.Fault:
    """A file of lines, one of them of other values; or the same in every line."""
    fault = draw(faults.in_tree(ROWS[0]))
    row = b" ".join(fault.content.split(b"\n")) + b"\n" if isinstance(fault.content, bytes) else b""
    everywhere = draw(st.booleans())
    content = row * len(ROWS) if everywhere else row + lines(ROWS[1:])
    return faults.Fault(fault.name + (" in every row" if everywhere else ""), content, "either")


@st.composite
def cases(draw: st.DrawFn, project: Path) -> Case:
    params = read_yaml(project / "params.yaml")
    params["prepare"].update(max_faulty_frac=draw(st.sampled_from([0.01, 1.0])))
    keep: list[str] = draw(st.sampled_from([[], ["nested"], ["nested.level"], ["\x1b[31m"]]))
    params["prepare"]["columns"]["keep"] = keep
    params["prepare"]["answer_pattern"] = draw(st.sampled_from([None, None, "= (.*)", "^(a+)+$", r"(\d+)", "x"]))
    form = draw(st.sampled_from(list(FORMS)))
    fault = draw(odd_row() | faults.of_bytes(FORMS[form]()) | faults.of_place())
    if fault.name.endswith("every row") or ":" in fault.name:
        form = "jsonl"
    name = f"data/source/own.{form}"
    params["prepare"]["dataset"] = name
    return Case(("prepare",), fault.name, {name: fault.content, "params.yaml": as_yaml(params)}, fault.expected)


def as_yaml(params: dict[str, Any]) -> bytes:
    text = io.BytesIO()
    YAML(typ="safe", pure=True).dump(params, text)
    return text.getvalue()


def valid(project: Path) -> st.SearchStrategy[Case]:
    """Each form as it should be, with lines ended otherwise and with a column more."""
    params = read_yaml(project / "params.yaml")
    further = {f"{form}, unchanged": (form, made()) for form, made in FORMS.items()}
    further |= {
        "CR LF": ("jsonl", lines().replace(b"\n", b"\r\n")),
        "empty lines": ("jsonl", lines().replace(b"\n", b"\n\n")),
        "a column more": ("jsonl", lines([{**row, "level": 3} for row in ROWS])),
        "rows in another order": ("jsonl", lines(ROWS[::-1])),
    }

    def case(name: str) -> Case:
        form, content = further[name]
        params["prepare"]["dataset"] = path = f"data/source/own.{form}"
        return Case(("prepare",), name, {path: content, "params.yaml": as_yaml(params)}, "accepted")

    return st.sampled_from(list(further)).map(case)
