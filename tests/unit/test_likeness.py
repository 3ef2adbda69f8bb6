"""Near-duplicates and contamination in prepare: what goes, what stays and is listed, and the split."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.outputs.manifest import MANIFEST
from posttrain.params.schema import Params
from posttrain.paths import PREPARED
from stages import prepare

ParamsWith = Callable[[dict[str, Any]], Params]

GSM8K_FORM = {
    "prepare.columns": {"problem": "question", "solution": "answer", "answer": "answer", "keep": []},
    "prepare.answer_pattern": r"####\s*(.+)",
}
LONG = "Tom has {} apples and buys {} more apples at the market on the way home. How many apples does {} have now?"


def prepared(params: Params) -> dict[str, Any]:
    prepare.run(params)
    return dict(json.loads((PREPARED / MANIFEST).read_text()))


def source(folder: Path, rows: list[tuple[str, str]], name: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"question": problem, "answer": f"So it is. #### {gold}"}) for problem, gold in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def problems_in(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PREPARED / f"{name}.jsonl").read_text().splitlines()]


IN_TWO = {**GSM8K_FORM, "prepare.dataset": "data/source/own", "prepare.test_split": "test"}


def test_near_duplicates_are_left_out_where_numbers_and_gold_agree(project: Path, params_with: ParamsWith) -> None:
    rows = [(LONG.format(3, 4, "Tom"), "7"), (LONG.replace("Tom", "Ada").format(3, 4, "Ada"), "7")]
    rows += [(LONG.format(5, 6, "Tom"), "11"), (LONG.format(3, 4, "Tom").replace("How many", "How few"), "8")]
    source(project / "data/source/own", rows)
    source(project / "data/source/own", [("What is 1 plus 1?", "2")], "test")
    manifest = prepared(params_with(IN_TWO))
    assert sorted(row["answer"] for row in problems_in("train")) == ["11", "7", "8"]
    rule = next(rule for rule in manifest["rules"] if rule["name"] == "near-duplicate")
    assert rule["left_out"] == 1
    assert {rule["examples"][0]["like"], rule["examples"][0]["problem"]} == {rows[0][0], rows[1][0]}
    assert {kept["name"]: kept["rows"] for kept in manifest["kept"]} == {"another-gold": 1, "template": 1}
    prepared(params_with({**IN_TWO, "prepare.near_duplicates": None}))
    assert len(problems_in("train")) == 4


def test_contaminated_problems_are_left_out_or_kept_by_name_and_flagged(project: Path, params_with: ParamsWith) -> None:
    own = [
        (f"Problem 4. {LONG.format(3, 4, 'Tom')} Say why.", "7"),
        (LONG.format(8, 9, "Tom"), "17"),
        ("Is 2 odd?", "no"),
    ]
    source(project / "data/source/own", own)
    source(project / "data/source/own", [(LONG.format(3, 4, "Tom"), "7"), ("Is 3 odd?", "yes")], "test")
    source(project / "data/source", [("is 2 odd", "no")], "bench")
    sets = ["held_out", {"name": "bench", "path": "data/source/bench.jsonl", "column": "question"}]
    params = params_with({**IN_TWO, "prepare.decontaminate": sets})
    manifest = prepared(params)
    assert [row["answer"] for row in problems_in("train")] == ["17"]
    assert "data/source/bench.jsonl" in manifest["inputs"]
    assert not any("contaminated" in row for row in problems_in("test"))
    params = params_with({**IN_TWO, "prepare.decontaminate": sets, "prepare.keep_contaminated": ["held_out"]})
    manifest = prepared(params)
    assert sorted(row["answer"] for row in problems_in("train")) == ["17", "7"]
    assert {row["problem"]: row.get("contaminated", False) for row in problems_in("test")} == {
        LONG.format(3, 4, "Tom"): True,
        "Is 3 odd?": False,
    }
    kept = next(kept for kept in manifest["kept"] if kept["name"] == "kept-from-held_out")
    assert kept["examples"][0]["like"] == LONG.format(3, 4, "Tom")


def test_near_duplicates_are_on_one_side_of_the_split_in_any_order(project: Path, params_with: ParamsWith) -> None:
    rows = [
        (LONG.replace("Tom", name).format(n, 2 * n, name), f"{3 * n}.{i}")
        for n in range(1, 40)
        for i, name in enumerate(["Ada", "Ben", "Cleo"])
    ]
    sides = []
    for seed in (1, 2):
        random.Random(seed).shuffle(rows)
        source(project / "data/source/own", rows)
        prepared(params_with({**IN_TWO, "prepare.test_split": None, "prepare.test_frac": 0.3}))
        sides.append([sorted(row["answer"] for row in problems_in(name)) for name in ("train", "test")])
        train, test = ({answer.split(".")[0] for answer in side} for side in sides[-1])
        assert train
        assert test
        assert not train & test
        assert len(sides[-1][0]) + len(sides[-1][1]) == len(rows)
    assert sides[0] == sides[1]
