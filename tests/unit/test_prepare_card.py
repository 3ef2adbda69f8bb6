"""The data card, `posttrain data`, what became of a row, and a prepare that is killed."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.cli import main
from posttrain.commands.check.checks import check_trace_lengths
from posttrain.commands.check.data import check_rewards, check_traces
from posttrain.commands.check.workspace import Workspace
from posttrain.data import written
from posttrain.data.card import bars, cell, histogram
from posttrain.data.traces import bin_of
from posttrain.outputs.manifest import MANIFEST, require_complete
from posttrain.outputs.rows import read_rows
from posttrain.params.schema import Params
from posttrain.paths import PREPARED, PREPARING
from stages import prepare
from tests.unit.test_prepare import ROWS, SMALL, contents, lines, save

ParamsWith = Callable[[dict[str, Any]], Params]

COLUMNS = {"problem": "q", "solution": "why", "answer": "a", "keep": []}
CHANGES = {**ROWS, "prepare.columns": COLUMNS, "prepare.test_split": "test"}


def row(problem: str, answer: str = "1", why: str = "One.") -> dict[str, str]:
    return {"q": problem, "a": answer, "why": why}


@pytest.fixture
def prepared(project: Path, params_with: ParamsWith) -> Params:
    """Seven rows, of which three stay."""
    save(
        "data/source/train.jsonl",
        row("What is 2 - 1?", why="<think>a</think>\\boxed{2}"),
        row("what is  2 - 1?"),
        row("Prove | it <b>", "see the proof above"),
        row("In the test set?"),
        row("Another?", "5", "<think>cut"),
    )
    save("data/source/test.jsonl", row("in the TEST set?"), row("?", "?"))
    params = params_with(CHANGES)
    prepare.run(params)
    return params


def test_the_card_has_what_every_rule_left_out(prepared: Params, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith((PREPARED / "card.md").read_text())
    assert "longer than sft.max_length (128)" in shown
    assert "2 training problems, 1 traces, 1 held-out problems" in shown
    assert "| data/source | train | 5 | 2 | 1 | 2 |\n| data/source | test | 2 | 1 | 0 | 1 |\n" in shown
    assert "| prose-gold | 6 | 1 | 5 | with a gold that is prose (prepare.drop_golds) |" in shown
    assert "| data/source:2 | Prove \\| it &lt;b> | see the proof above |" in shown
    assert "| data/source:1 | what is  2 - 1? | What is 2 - 1? |".replace("  ", " ") in shown
    assert "| data/source:0 | What is 2 - 1? | concludes 2; the gold is 1 |" in shown
    manifest = require_complete(PREPARED, "prepare")
    card = manifest["card"]
    assert not [name for name, number in Counter(rule["name"] for rule in manifest["rules"]).items() if number > 1]
    assert card["problem_chars"] == [{"below": 64, "number": 3}]
    assert card["without_conclusion"] == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("data/source:1", "one problem with data/source:0 (duplicates)"),
        (
            "data/source:2",
            "left out, one of the rows with a gold that is prose (prepare.drop_golds): see the proof above",
        ),
        (
            "data/source:4",
            "kept; 1 of its traces left out, cut off: a tag is never closed, or nothing follows the thoughts",
        ),
        ("IN the test set?", "left out, one of the rows training problems that are in the test set"),
        ("Another?", "data/source:4 (train, id "),
    ],
)
def test_why_tells_what_became_of_a_row(
    prepared: Params, capsys: pytest.CaptureFixture[str], asked: str, told: str
) -> None:
    capsys.readouterr()
    assert main(["data", "--why", asked]) == 0
    assert told in capsys.readouterr().out


def test_why_takes_an_id_and_names_every_row_with_it(prepared: Params, capsys: pytest.CaptureFixture[str]) -> None:
    (row_id,) = {row["id"] for row in lines("train.jsonl") if row["problem"] == "What is 2 - 1?"}
    capsys.readouterr()
    assert main(["data", "--why", row_id]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["data/source:0", "data/source:1"]
    for missing in ("data/source:77", "nowhere:1", "data/source:" + "9" * 30, "What?"):
        assert main(["data", "--why", missing]) == 2
        assert "no such row" in capsys.readouterr().err


def test_many_traces_are_parquet_with_the_same_rows(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.run(params_with(SMALL))
    small = list(read_rows(PREPARED, "sft"))
    assert small == lines("sft.jsonl")
    monkeypatch.setattr(written, "LARGE", 1000)
    monkeypatch.setattr(written, "ROW_GROUP", 7)
    prepare.run(params_with(SMALL))
    assert not (PREPARED / "sft.jsonl").exists()
    assert list(read_rows(PREPARED, "sft")) == small
    wanted = {small[3]["id"], small[-1]["id"]}
    assert list(read_rows(PREPARED, "sft", wanted)) == [row for row in small if row["id"] in wanted]


def test_check_holds_a_sample_of_the_traces_and_says_the_same_of_either_form(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, found = params_with(SMALL), []
    for large in (2**30, 1000):
        monkeypatch.setattr(written, "LARGE", large)
        prepare.run(params)
        monkeypatch.setattr("posttrain.commands.check.workspace.SAMPLE", 5)
        with Workspace(params) as work:
            assert work.sample == list(read_rows(PREPARED, "sft"))[:5]
            found.append([*check_rewards(work), *check_traces(work), *check_trace_lengths(work)])
    assert found[0] == found[1]
    assert {finding.name for finding in found[0]} >= {"golds of their problems", "lengths of the traces"}


def test_a_line_separator_in_a_row_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "sft.jsonl").write_text(json.dumps({"a": "b\u2028c\x85"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_rows(tmp_path, "sft")) == [{"a": "b\u2028c\x85"}]


def test_lengths_by_powers_of_two() -> None:
    assert [bin_of(length) for length in (0, 63, 64, 127, 128, 4096)] == [64, 64, 128, 128, 256, 8192]
    found = histogram(Counter({64: 2, 256: 120}))
    assert found == [{"below": 64, "number": 2}, {"below": 128, "number": 0}, {"below": 256, "number": 120}]
    assert [len(line.partition("#")[2]) + 1 for line in bars(found).splitlines() if "#" in line] == [1, 60]
    assert histogram(Counter()) == []


def test_a_cell_holds_no_markup() -> None:
    assert cell("a\n| b <i>`c`\x1b[31m\u202e\\") == "a \\| b &lt;i>'c' [31m \\\\"


def test_a_prepare_that_is_killed_leaves_the_old_output_or_the_new(project: Path, params_with: ParamsWith) -> None:
    """Eight SIGKILLs, half of them once verdicts are noted; then a run goes on, to the bytes of one never killed."""
    frac = "\\frac{{{}}}{{{}}}"
    save("data/source/rows/train.jsonl", *(row(f"What is {n}?", frac.format(n, n + 1)) for n in range(1, 1500)))
    save("data/source/rows/test.jsonl", row("t?"))
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["prepare"] |= {"dataset": "data/source/rows", "test_split": "test", "columns": COLUMNS}
    yaml.dump(params, Path("params.yaml"))
    command = [sys.executable, "-m", "posttrain", "prepare"]
    began = time.monotonic()
    subprocess.run(command, check=True)
    whole, new = time.monotonic() - began, contents(PREPARED)
    prepare.run(params_with(SMALL))
    old, draw, went_on = contents(PREPARED), random.Random(1), 0
    for number in range(8):
        with subprocess.Popen(command) as run:
            if number % 2:
                while run.poll() is None and not any(PREPARING.glob("*/verdicts.jsonl")):
                    time.sleep(0.002)
                time.sleep(draw.uniform(0, 0.1))
            else:
                time.sleep(whole * draw.uniform(0.3, 1.0))
            run.send_signal(signal.SIGKILL)
        went_on += any(PREPARING.glob("*/verdicts.jsonl"))
        assert not PREPARED.exists() or contents(PREPARED) in (old, new)
    subprocess.run(command, check=True)
    assert contents(PREPARED) == new
    assert (PREPARED / MANIFEST).is_file()
    assert list(PREPARING.iterdir()) == []
    assert list(PREPARED.parent.glob(".prepared*")) == []
    assert went_on
