"""`posttrain rewards FILE`: the table, the histograms, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.commands.rewards import histogram
from posttrain.prompts import completion_text

RIGHT, WRONG = completion_text("so", "x = 5"), completion_text("so", "x = 6")


def audit(rows: list[dict[str, Any]], *arguments: str) -> int:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return main(["rewards", "rows.jsonl", *arguments])


def use(project: Path, rewards: str) -> None:
    head, _, rest = (project / "params.yaml").read_text().partition("\nrewards:")
    (project / "params.yaml").write_text(f"{head}\nrewards: {rewards}\n{rest[rest.index('grpo:') :]}")


def test_table_and_histogram(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "user", "content": "Solve"}]
    rows = [
        {"prompt": "Solve", "completion": RIGHT, "gold": "x = 5"},
        {"prompt": chat, "completion": [{"role": "assistant", "content": WRONG}], "gold": "x = 5"},
        {"problem": "Solve", "completion": "", "answer": "x = 5"},
        {"problem": "Other", "completion": RIGHT, "answer": "x = 6"},
    ]
    assert audit(rows) == 0
    out = capsys.readouterr().out
    assert "4 completions of 2 problems | 3 declare an answer" in out
    assert "right 1 | wrong 3 | no verdict 0" in out
    # 1 of 4 right: mean 0.25, deviation sqrt(0.25 x 0.75)
    assert "accuracy                         1    0.2500    0.4330    0.0000    1.0000      0" in out
    # totals 1.15, 0.15, 0, 0.15
    assert "total                                 0.3625    0.4588    0.0000    1.1500      0" in out
    assert out.endswith("total\n                     0       1 ██████████\n"
                        "                  0.15       2 ████████████████████\n"
                        "                  1.15       1 ██████████\n")  # fmt: skip


def test_groups_are_found_wherever_they_stand(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use(project, "{length: {weight: 1.0}}")
    rows = [
        {"prompt": "a", "completion": RIGHT, "gold": "x = 5", "tokens": 10},
        {"prompt": "b", "completion": RIGHT, "gold": "x = 5", "tokens": 100},
        {"prompt": "a", "completion": RIGHT, "gold": "x = 5", "tokens": 20},
        {"prompt": "b", "completion": RIGHT, "gold": "x = 5", "tokens": 200},
    ]
    assert audit(rows) == 0
    out = capsys.readouterr().out
    assert "-0.5       2" in out
    assert " 0.5       2" in out


@pytest.mark.parametrize(
    ("rows", "rewards", "says"),
    [
        ([], None, "no rows"),
        ([{"prompt": "a"}], None, "rows.jsonl: line 1\n  got     `completion` is None"),
        ([{"prompt": "a", "completion": RIGHT, "gold": 5}], None, "`gold` is 5"),
        ([{"prompt": "a", "completion": RIGHT, "gold": "???"}], None, "row 1\n  got     the gold '???'"),
        (
            [{"prompt": "a", "completion": RIGHT, "gold": "5"}],
            "{length: {weight: 1}}",
            "no `tokens` column, which length",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], rewards: str | None, says: str
) -> None:
    if rewards:
        use(project, rewards)
    assert audit(rows) == 2
    assert says in capsys.readouterr().err


def test_histogram_of_many_values_has_equal_bins() -> None:
    assert histogram([float(number) for number in range(101)]) == [
        *((f"{low} to {low + 10}", 10) for low in range(0, 90, 10)),
        ("90 to 100", 11),
    ]
