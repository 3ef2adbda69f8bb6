"""Files of completions, through `posttrain rewards FILE`."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.surface import faults
from tests.surface.case import Case

ROWS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} + 1?"}],
        "completion": f"<think>\nadd\n</think>\n<answer>\n{n + 1}\n</answer>",
        "gold": str(n + 1),
        "tokens": 12,
        "step": n,
        "source": "mine",
    }
    for n in range(4)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@st.composite
def odd_row(draw: st.DrawFn) -> faults.Fault:
    fault = draw(faults.in_tree(ROWS[0]))
    row = b" ".join(fault.content.split(b"\n")) + b"\n" if isinstance(fault.content, bytes) else b""
    return faults.Fault(fault.name, row + LINES, "either")


def cases(project: Path) -> st.SearchStrategy[Case]:
    found = odd_row() | faults.of_bytes(LINES) | faults.of_place()
    named = st.sampled_from(["rows.jsonl", "rows.parquet", "rows.json", "rows", "\x1b[31mrows.jsonl"])
    return st.builds(
        lambda fault, name: Case(("rewards", name), fault.name, {name: fault.content}, fault.expected), found, named
    )


def valid(project: Path) -> st.SearchStrategy[Case]:
    table = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    files = {
        "rows.jsonl": LINES,
        "crlf.jsonl": LINES.replace(b"\n", b"\r\n"),
        "rows.parquet": table.getvalue().to_pybytes(),
        "no-gold.jsonl": b'{"problem": "1 + 1", "completion": "<answer>\\n2\\n</answer>", "answer": "2"}\n',
    }
    return st.sampled_from(list(files)).map(
        lambda name: Case(("rewards", name), "unchanged", {name: files[name]}, "accepted")
    )
