"""The data card of data/prepared, and what became of a row of the sources; `posttrain data`.

Reads   data/prepared/{manifest.json,card.md,fates.parquet}; for lengths in tokens, the base's tokenizer if it is here;
        results/grpo/difficulty.parquet, if grpo has measured
"""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from posttrain.commands.check.workspace import SAMPLE, Workspace
from posttrain.data.card import bars, histogram
from posttrain.data.problems import key_of
from posttrain.data.traces import bin_of
from posttrain.errors import InputError
from posttrain.grpo import difficulty
from posttrain.outputs.json_files import RESTORE
from posttrain.outputs.parents import require_out
from posttrain.params.schema import Params
from posttrain.paths import GRPO_RESULTS, PREPARED
from posttrain.text_files import read_text

COLUMNS = ["id", "right", "samples"]


def show(params: Params) -> None:
    require_out(PREPARED, "prepare")
    print(read_text(PREPARED / "card.md", RESTORE), end="")
    if params.sft is not None:
        print(
            f"\nLength in tokens is SFT's to rule: it leaves out traces that are, prompt included, longer than "
            f"sft.max_length ({params.sft.max_length}), and counts them in results/sft/metrics.json (`too_long`)."
        )
    with Workspace(params) as work:
        if work.params.model.name_or_path != "scratch" and work.base_tokenizer is not None and work.sample:
            lengths = Counter(bin_of(tokens) for _, tokens in work.trace_lengths("sft"))
            print(f"\n## Traces by tokens, {SAMPLE} of them at most\n\n```\n{bars(histogram(lengths))}\n```")
    if rates := measured():
        print(f"\n## Problems by percent of right completions, as GRPO measured\n\n```\n{bars(rates)}\n```")


def measured() -> list[dict[str, int]]:
    """Training problems by tenths of the pass rate; nothing if none is measured. The last tenth has those of 100 %."""
    path = GRPO_RESULTS / difficulty.TABLE
    if not path.is_file():
        return []
    try:
        rates = [difficulty.Rate(**row) for row in pq.read_table(path, columns=COLUMNS).to_pylist()]
        tenths = difficulty.histogram(rates)
    except (pa.ArrowException, OSError, TypeError, ValueError, ZeroDivisionError) as error:
        got = f"no table of rates: {' '.join(str(error).split())[:120]}"
        raise InputError(str(path), got=got, wanted="what grpo measured", do=RESTORE) from None
    if not rates:
        return []
    return [{"below": 100 * (number + 1) // len(tenths), "number": count} for number, count in enumerate(tenths)]


def why(asked: str) -> None:
    """What became of the rows with an id, of SOURCE:ROW, or of the problem that is the text.

    Raises: InputError if there is none.
    """
    manifest = require_out(PREPARED, "prepare")
    fates = pq.read_table(PREPARED / "fates.parquet")
    found = fates.filter(pc.equal(fates["id"], asked))
    if not found.num_rows:
        found = fates.filter(at(fates, asked))
    if not found.num_rows:
        found = fates.filter(pc.equal(fates["id"], key_of(asked).hex()[:12]))
    if not found.num_rows:
        sources = ", ".join(sorted(set(fates["source"].unique().to_pylist())))
        raise InputError(
            f"posttrain data --why {asked!r:.80}",
            got="no such row",
            wanted=f"an id of data/prepared, SOURCE:ROW (of {sources}; rows from 0), or the whole text of a problem",
            do="look at data/prepared/card.md",
        )
    reasons = {rule["name"]: rule["reason"] for name in ("rules", "trace_rules") for rule in manifest[name]}
    for line in found.to_pylist():
        print(f"data | {told(line, reasons)}")


def at(fates: pa.Table, asked: str) -> Any:
    """Which row is the one of SOURCE:ROW, in each split."""
    source, _, row = asked.rpartition(":")
    number = int(row) if row.isdecimal() and len(row) < 19 else -1
    return pc.and_(pc.equal(fates["source"].cast("string"), source), pc.equal(fates["row"], number))


def told(line: dict[str, Any], reasons: dict[str, str]) -> str:
    """One row's fate as a sentence."""
    place = f"{line['source']}:{line['row']} ({line['split']}, id {line['id']})"
    if line["fate"] == "kept":
        fate = "kept"
    elif line["into"] is not None:
        fate = f"one problem with {line['into']} ({reasons[line['fate']]})"
    else:
        fate = f"left out, one of the rows {reasons[line['fate']]}"
    note = f": {line['note']}" if line["note"] else ""
    names = (line["traces_left_out"] or "").split(", ") if line["traces_left_out"] else []
    traces = "".join(f"; {count} of its traces left out, {reasons[name]}" for name, count in Counter(names).items())
    return f"{place} | {fate}{note}{traces}"
