"""What `posttrain prepare` costs on data of the shape of OpenR1-Math-220k, and what it finds of what was planted.

Reads   nothing; the rows are made, the same for the same numbers: problems and copies of benchmarks/planted.py, traces
        of 1 to 6 thousand tokens, bad golds, several generations with flags
Writes  into a temporary folder, which is removed
Run     make bench-prepare, or python -m benchmarks.prepare --rows 20000

Two sizes are prepared, each by the command of its own, and the exponent between them is printed: 1 is linear. In the
larger one every row's fate is compared with what was planted. Beside it, on the same problems, open-r1's rule of
contamination (scripts/decontaminate.py): any 8 words in a row in common, in lower case, white space aside.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from benchmarks.planted import COPIES, INSIDE, MIDDLES, VARIANTS, problem

ROOT = Path(__file__).parents[1]
SHARD = 20_000
TESTS = 1000
CHARS_PER_TOKEN = 4
BAD_GOLDS = ("proof", "MCQ", "see the proof above and the figure beside it", "\\frac{", "")
FRACTIONS = {"near": 0.10, "contaminated": 0.01, "bad": 0.02, "several": 0.3}


@dataclass
class Row:
    problem: str
    answer: str
    kind: str
    """`clean`, `bad gold`, `near: KIND`, `contaminated: KIND`."""
    of: int = -1
    """The row, or the test problem, that it is a copy of."""


def rows_of(number: int, tests: list[str], rng: random.Random) -> list[Row]:
    copies, planted = int(number * FRACTIONS["near"]), int(number * FRACTIONS["contaminated"])
    bad = int(number * FRACTIONS["bad"])
    rows = [Row(problem(rng), str(rng.randint(1, 999)), "clean") for _ in range(number - copies - planted - bad)]
    with_numbers = [i for i, row in enumerate(rows) if any(map(str.isdigit, row.problem))]
    kinds = {**COPIES, **VARIANTS}
    chosen = rng.sample(with_numbers, copies)
    for place, original in enumerate(chosen):
        kind = list(kinds)[place % len(kinds)]
        gold = rows[original].answer if kind in COPIES else str(1000 + rng.randint(1, 999))
        rows.append(Row(kinds[kind](rows[original].problem, rng), gold, f"near: {kind}", original))
    inside = {**INSIDE, "numbers + 1": VARIANTS["numbers + 1"]}
    numbered = [i for i, text in enumerate(tests) if any(map(str.isdigit, text))]
    for place in range(planted):
        kind, test = list(inside)[place % len(inside)], numbered[place // len(inside) % len(numbered)]
        rows.append(Row(inside[kind](tests[test], rng), str(test), f"contaminated: {kind}", test))
    rows += [Row(problem(rng), rng.choice(BAD_GOLDS), "bad gold") for _ in range(bad)]
    return rows


class Traces:
    """Traces cut from a few megabytes of sentences, as long as R1's and as quick as copying."""

    def __init__(self, rng: random.Random) -> None:
        values = {"x": "terms", "y": "cases", "a": "it", "b": "this", "c": "that", "p": "table", "q": "diagram"}
        sentences = [
            s.format(**values, d="Monday", **{k: rng.randint(2, 99) for k in "ijkl"})
            for s in MIDDLES
            for _ in range(9000)
        ]
        rng.shuffle(sentences)
        self.pool = " ".join(sentences)
        self.rng = rng

    def one(self, answer: str) -> str:
        tokens = math.exp(self.rng.uniform(math.log(1000), math.log(6000)))
        start = self.rng.randrange(len(self.pool) - 6001 * CHARS_PER_TOKEN)
        thoughts = self.pool[start : start + int(tokens * CHARS_PER_TOKEN)]
        return f"<think>\n{thoughts}\n</think>\nThe answer is \\boxed{{{answer}}}."

    def of(self, row: Row) -> tuple[list[str], list[bool]]:
        several = self.rng.random() < FRACTIONS["several"]
        flags = [True, False] if several else [True]
        return [self.one(row.answer if right else f"{row.answer}0") for right in flags], flags


def write_source(folder: Path, number: int, seed: int) -> tuple[list[Row], list[str]]:
    """Shards of Parquet with the columns of OpenR1-Math, and a test set as JSON Lines; the truth is returned."""
    rng = random.Random(f"{seed}/{number}")
    tests = [problem(rng) for _ in range(TESTS)]
    rows, traces = rows_of(number, tests, rng), Traces(rng)
    rng.shuffle(places := list(range(len(rows))))
    (folder / "train").mkdir(parents=True)
    shards = math.ceil(number / SHARD)
    for shard in range(shards):
        some = [rows[place] for place in places[shard * SHARD : (shard + 1) * SHARD]]
        generations = [traces.of(row) for row in some]
        table = {
            "uuid": [f"{seed}-{place}" for place in places[shard * SHARD : (shard + 1) * SHARD]],
            "problem": [row.problem for row in some],
            "answer": [row.answer for row in some],
            "solution": [f"By hand: \\boxed{{{row.answer}}}" for row in some],
            "generations": [made for made, _ in generations],
            "correctness_math_verify": [flags for _, flags in generations],
            "is_reasoning_complete": [[True] * len(flags) for _, flags in generations],
        }
        pq.write_table(
            pa.table(table), folder / f"train/train-{shard:05d}-of-{shards:05d}.parquet", compression="snappy"
        )
    lines = (json.dumps({"problem": text, "answer": "1"}) for text in tests)
    (folder / "bench.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return rows, tests


def workspace(folder: Path) -> None:
    """A project of its own: this code, these params, the source that was made."""
    for name in ("posttrain", "stages", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["prepare"] |= {
        **{"dataset": "data/source/train", "test_frac": 0.01, "layout": "auto"},
        "columns": {"problem": "problem", "solution": "solution", "answer": "answer", "keep": ["uuid"]},
        "decontaminate": ["held_out", {"name": "bench", "path": "data/source/bench.jsonl", "column": "problem"}],
    }
    yaml.dump(params, folder / "params.yaml")
    for name in ("models/base", "rewards"):
        (folder / name).mkdir(parents=True)


def measured(folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and the peak resident GiB of the process tree of `posttrain prepare`."""
    began = time.monotonic()
    before = os.times()
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "posttrain", "prepare"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        peak = [0.0]
        watcher = threading.Thread(target=watch, args=(process, peak))
        watcher.start()
        code = process.wait()
        watcher.join()
    after = os.times()
    if code:
        sys.exit((folder / "log").read_text()[-3000:])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, cpu, peak[0]


def watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], resident_gib(process.pid))
        time.sleep(0.2)


def resident_gib(root: int) -> float:
    """Memory of a process and all below it, pages that they share counted once (PSS)."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children[parent].append(int(stat.parent.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


def kept_places(folder: Path, *names: str) -> set[int]:
    """Numbers of the rows that are in what prepare wrote."""
    found = set()
    for name in names:
        for line in (folder / f"data/prepared/{name}.jsonl").open(encoding="utf-8", newline="\n"):
            found.add(int(json.loads(line)["uuid"].rpartition("-")[2]))
    return found


def fates(rows: list[Row], kept: set[int]) -> Iterator[tuple[str, int, int]]:
    """For each kind how many were planted and how many of these are gone, the original or the copy."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for place, row in enumerate(rows):
        gone = place not in kept or (row.kind.startswith("near") and row.of not in kept)
        counts[row.kind][0] += 1
        counts[row.kind][1] += gone
    return ((kind, planted, gone) for kind, (planted, gone) in sorted(counts.items()))


def print_found(rows: list[Row], kept: set[int]) -> None:
    by_kind = {kind: (planted, gone) for kind, planted, gone in fates(rows, kept)}
    originals = {row.of for row in rows if row.kind.startswith("near")}
    wrong = sum(row.kind == "clean" and place not in originals and place not in kept for place, row in enumerate(rows))
    variants = {f"{what}: {kind}" for what in ("near", "contaminated") for kind in VARIANTS}
    print(f"{'kind':40s} planted    gone")
    for kind, (planted, gone) in by_kind.items():
        note = "   another problem: has to stay" if kind in variants else ""
        print(f"{kind:40s} {planted:7d} {gone / planted:7.3f}{note}")
    for what in ("near", "contaminated"):
        copies = [by_kind[kind] for kind in by_kind if kind.startswith(what) and kind not in variants]
        others = [by_kind[kind] for kind in by_kind if kind.startswith(what) and kind in variants]
        right, false = sum(gone for _, gone in copies), wrong + sum(gone for _, gone in others)
        planted = sum(number for number, _ in copies)
        print(f"{what}: recall {right / planted:.4f}, precision {right / (right + false):.4f} ({wrong} others gone)")


def eight_grams(text: str) -> set[tuple[str, ...]]:
    words = " ".join(text.lower().strip().split()).split(" ")
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


def print_open_r1(rows: list[Row], tests: Iterable[str]) -> None:
    """open-r1's rule on the same problems."""
    began = time.process_time()
    known = set().union(*map(eight_grams, tests))
    flagged = [not known.isdisjoint(eight_grams(row.problem)) for row in rows]
    planted = [row.kind.startswith("contaminated") and "numbers" not in row.kind for row in rows]
    right = sum(map(lambda a, b: a and b, flagged, planted))
    recall, precision = right / sum(planted), right / max(1, sum(flagged))
    print(
        f"open-r1's rule, 8 words in a row: recall {recall:.4f}, precision {precision:.4f} "
        f"({sum(flagged)} of {len(rows)} rows flagged, {time.process_time() - began:.0f} CPU s)"
    )


def bench(number: int, seed: int, place: Path) -> tuple[dict[str, float], list[Row], list[str], set[int]]:
    folder = place / str(number)
    folder.mkdir(parents=True)
    began = time.monotonic()
    rows, tests = write_source(folder / "data/source", number, seed)
    size = sum(file.stat().st_size for file in (folder / "data/source").rglob("*.parquet")) / 2**30
    print(f"{number} rows: {size:.2f} GiB of Parquet made in {time.monotonic() - began:.0f} s", flush=True)
    workspace(folder)
    seconds, cpu, peak = measured(folder)
    print(f"{number} rows: {seconds / 60:.2f} minutes, {cpu:.0f} CPU s, {peak:.2f} GiB at most", flush=True)
    print("".join(f"  {line}\n" for line in (folder / "log").read_text().splitlines()), end="", flush=True)
    kept = kept_places(folder, "train", "test")
    held_out = kept_places(folder, "test")
    # A copy of a problem of another evaluation set that is held out itself trains nothing.
    kept -= {place for place, row in enumerate(rows) if row.kind.startswith("contaminated") and place in held_out}
    shutil.rmtree(folder)
    return {"seconds": seconds, "cpu": cpu, "peak": peak}, rows, tests, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=220_000)
    parser.add_argument("--small", type=int, default=20_000, help="the other size, for the exponent; 0 for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="bench-prepare-") as folder:
        costs: dict[int, dict[str, Any]] = {}
        for number in filter(None, (arguments.small, arguments.rows)):
            costs[number], rows, tests, kept = bench(number, arguments.seed, Path(folder))
        if arguments.small:
            small, large = costs[arguments.small], costs[arguments.rows]
            ratio = math.log(arguments.rows / arguments.small)
            print(f"exponent: {math.log(large['cpu'] / small['cpu']) / ratio:.2f} in CPU seconds")
        print_found(rows, kept)
        print_open_r1(rows, tests)


if __name__ == "__main__":
    main()
