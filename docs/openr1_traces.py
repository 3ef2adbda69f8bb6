"""One verified trace of R1 a line, from OpenR1-Math-220k, in the form that `posttrain prepare` reads.

Reads   open-r1/OpenR1-Math-220k at a commit, from the Hub
Writes  data/source/openr1-math/train.jsonl: {problem, solution, answer}
Run     python docs/openr1_traces.py [TRACES_PER_PROBLEM]

The dataset has two to four traces a problem in a list, `generations`; `prepare` takes one text a row.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

DATASET, CONFIG, REVISION = "open-r1/OpenR1-Math-220k", "default", "e4e141ec9dea9f8326f4d347be56105859b2bd68"
OUT = Path("data/source/openr1-math/train.jsonl")
OPEN, CLOSE = "<think>", "</think>"


def rows(source: Iterable[Mapping[str, Any]], traces: int) -> Iterator[dict[str, str]]:
    """Up to `traces` rows for each problem that has a text and an answer."""
    for row in source:
        problem, answer = (row[name] or "" for name in ("problem", "answer"))
        if problem.strip() and answer.strip():
            for thoughts in verified(row)[:traces]:
                yield {"problem": problem, "solution": thoughts, "answer": answer}


def verified(row: Mapping[str, Any]) -> list[str]:
    """The thoughts of the traces that were ended and that math-verify found right."""
    kept = zip(row["generations"], row["is_reasoning_complete"], row["correctness_math_verify"], strict=True)
    found = [thoughts(trace) for trace, complete, right in kept if complete and right]
    return [text for text in found if text]


def thoughts(trace: str) -> str:
    """Between the tags, which `prepare` puts back; empty unless there is one pair."""
    if trace.count(OPEN) != 1 or trace.count(CLOSE) != 1:
        return ""
    return trace.partition(OPEN)[2].partition(CLOSE)[0].strip()


def write(source: Iterable[Mapping[str, Any]], traces: int, out: Path) -> int:
    """How many rows were written; the file is there whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished, count = out.with_suffix(".tmp"), 0
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows(source, traces):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    unfinished.replace(out)
    return count


if __name__ == "__main__":
    from datasets import load_dataset

    stream = load_dataset(DATASET, CONFIG, revision=REVISION, split="train", streaming=True)
    written = write(stream, int(sys.argv[1]) if sys.argv[1:] else 1, OUT)
    print(f"{OUT}: {written} traces | next: posttrain check, then posttrain prepare")
