"""The steps of prepare: rows on disk, rules in their order, counts for the manifest."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.data import rules
from posttrain.data.equations import equation_rows
from posttrain.data.golds import Golds
from posttrain.data.likeness import Likeness
from posttrain.data.problems import TEST, TRAIN, Problems, Rule
from posttrain.data.sources import load
from posttrain.data.table import Table, kept_on_disk
from posttrain.data.traces import Traces
from posttrain.errors import InputError
from posttrain.params.schema import BUILT_IN, HELD_OUT, Params
from posttrain.paths import PREPARING


@contextmanager
def preparing(made_from: dict[str, Any]) -> Iterator[Path]:
    """Room for what prepare goes on from when it is run again after a kill; of what the same facts make, and removed
    once that is published."""
    fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    folder = PREPARING / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    for other in PREPARING.iterdir():
        if other.name != fingerprint:
            shutil.rmtree(other, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def table_of(params: Params, folder: Path) -> Table:
    """The rows of the sources of params."""
    config = params.prepare
    if config.dataset == BUILT_IN:
        return Table(kept_on_disk(folder / BUILT_IN, lambda: equation_rows(params)))
    train = load(config, config.train_split, folder)
    return Table(train, None if config.test_split is None else load(config, config.test_split, folder))


def every_rule(params: Params, golds: Golds, folder: Path) -> Iterator[Rule]:
    """In the order in which they are applied: a row's fate is that of the first rule that leaves it out."""
    config = params.prepare
    yield rules.faulty()
    yield rules.without_a_match()
    if config.max_solution_chars is not None:
        yield rules.long(config.max_solution_chars)
    if config.columns.answer is not None or config.dataset == BUILT_IN:
        yield rules.without_a_gold()
        yield from rules.gold_rules(golds, config.drop_golds)
        yield rules.conflicting_golds(golds)
    yield rules.duplicates()
    if HELD_OUT not in config.keep_contaminated:
        yield rules.in_the_test_set()
    yield from Likeness(config, folder).rules()
    yield rules.beyond(TRAIN, config.max_train)
    yield rules.beyond(TEST, config.max_test)


def counted(problems: Problems, traces: Traces) -> dict[str, Any]:
    """What a manifest says of the rules: each with what went in and out, and how many rows each reason cost."""
    rules, of_traces = [rule.record() for rule in problems.applied], traces.record()
    kept = [noted.record() for noted in problems.noted.values()]
    return {"rules": rules, "trace_rules": of_traces, "dropped": dropped(problems), "kept": kept}


def dropped(problems: Problems) -> dict[str, int]:
    """Rows left out, by the reason."""
    found: Counter[str] = Counter()
    for rule in problems.applied:
        found[rule.reason] += rule.rows_out
    return dict(+found)


def require_sound(problems: Problems) -> None:
    """Raises: InputError if more rows are faulty than params allow, with the reasons."""
    limit, number = problems.params.max_faulty_frac, len(problems.faults)
    if number <= limit * len(problems):
        return
    reasons = Counter(problems.faults.values()).most_common(5)
    first = {fault: row for row, fault in reversed(problems.faults.items())}
    told = "; ".join(f"{count} times {fault}, first in {problems.name(first[fault])}" for fault, count in reasons)
    raise InputError(
        f"params.yaml: prepare.dataset ({problems.sources[next(iter(problems.faults))]})",
        got=f"{number} of {len(problems)} rows that cannot be used: {told}",
        wanted=f"at most a share of {limit:g} (prepare.max_faulty_frac)",
        do="check prepare.columns, mend the rows, or raise prepare.max_faulty_frac: they are left out then",
    )


def require_problems(problems: Problems) -> None:
    """Raises: InputError if one of the sets is empty."""
    for name, part in (("training", TRAIN), ("test", TEST)):
        if not problems.rows(part):
            reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped(problems).items()))
            raise InputError(
                f"params.yaml: prepare ({problems.params.datasets})",
                got=f"no {name} problems; left out: {reasons or 'none'}",
                wanted="one at least",
                do="check answer_pattern, columns, the splits and the bounds",
            )
