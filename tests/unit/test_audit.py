"""`posttrain rewards FILE`: the table, the histograms, and what it refuses."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from posttrain.cli import main
from posttrain.commands.rewards import histogram
from posttrain.grpo.records import KeptCompletions
from posttrain.prompts import completion_text, prompt_messages
from posttrain.training.trl import GenerationBatch

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
        ([{"prompt": "a"}], None, "rows.jsonl: line 1\n  got     columns 'prompt'\n  wanted  a column `completion`"),
        ([{"prompt": "a", "completion": None}], None, "rows.jsonl: line 1\n  got     `completion` is None"),
        ([{"prompt": "a", "Response": RIGHT}], None, "rename `Response`"),
        ([{"prompt": "a", "completon": RIGHT}], None, "rename `completon`"),
        ([{"question": "a", "completion": RIGHT}], None, "rename `question`"),
        ([{"prompt": "a", "completion": RIGHT, "ground_truth": "5"}], None, "rename `ground_truth`"),
        ([{"prompt": "a", "completion": RIGHT}], None, "a column `gold`, which accuracy of params.yaml need"),
        ([{"prompt": "a", "completion": "\ud800", "gold": "5"}], None, "`completion` holds half of a surrogate pair"),
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


EVALUATED = {
    "id": "1",
    "problem": "Solve",
    "answer": "x = 5",
    "sft": {"completions": [WRONG, RIGHT], "correct": [0.0, 1.0]},
    "grpo": {"completions": [RIGHT, RIGHT], "correct": [1.0, 1.0]},
}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([EVALUATED], ["4 completions of 1 problems", "'sft': right 1 of 2", "'grpo': right 2 of 2"]),
        (
            [{"problem": "Solve", "answer": "x = 5", "before": {"completion": WRONG}, "after": {"completion": RIGHT}}],
            ["'before': right 0 of 1", "'after': right 1 of 1"],
        ),
        ([{"problem": "Solve", "completion": RIGHT, "finished": True}], ["right 1 | wrong 0"]),
        ([{"prompt": "Solve", "completions": [RIGHT, WRONG], "gold": "x = 5"}], ["right 1 | wrong 1"]),
    ],
)
def test_what_stages_publish_is_read(
    project: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], says: list[str]
) -> None:
    Path("data/prepared").mkdir(parents=True)
    Path("data/prepared/train.jsonl").write_text(json.dumps({"id": "1", "problem": "Solve", "answer": "x = 5"}) + "\n")
    assert audit(rows) == 0
    out = capsys.readouterr().out
    for text in says:
        assert text in out


def test_the_completions_that_grpo_keeps_are_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/prepared").mkdir(parents=True)
    Path("data/prepared/train.jsonl").write_text(json.dumps({"id": "1", "problem": "Solve", "answer": "x = 5"}) + "\n")
    batch = GenerationBatch(
        prompts=[prompt_messages("Solve", "Be brief.")] * 2,
        completions=[[{"role": "assistant", "content": text}] for text in (RIGHT, WRONG)],
        rewards={"accuracy": [1.0, 0.0]},
        advantages=[1.0, -1.0],
        weights=torch.ones(1),
        group_size=2,
    )
    kept = KeptCompletions(1, ["accuracy"], lambda: batch)
    for step in (1, 2):
        kept.on_step_end(None, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
    kept.publish()
    use(project, "{accuracy: {weight: 1.0}, length: {weight: 0.0}}")
    assert main(["rewards", "results/grpo/completions.parquet"]) == 2
    assert "no `tokens` column" in capsys.readouterr().err
    use(project, "{accuracy: {weight: 1.0}}")
    assert main(["rewards", "results/grpo/completions.parquet"]) == 0
    assert "right 2 | wrong 2" in capsys.readouterr().out


def test_any_parquet_with_the_columns_is_read(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = [[{"role": "assistant", "content": RIGHT}], [{"role": "assistant", "content": WRONG}]]
    table = pa.table({"question": ["a", "b"], "completion": chat, "gold": ["x = 5", "x = 5"]})
    pq.write_table(table, "rows.parquet")
    assert main(["rewards", "rows.parquet"]) == 2
    assert "rename `question`" in capsys.readouterr().err
    pq.write_table(table.rename_columns(["prompt", "completion", "gold"]), "rows.data")  # known by its content
    assert main(["rewards", "rows.data"]) == 0
    assert "right 1 | wrong 1" in capsys.readouterr().out


def test_what_is_no_file_of_rows_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("samples.jsonl").write_text("{}")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("cut.parquet").write_bytes(b"PAR1 and no more")
    Path("deep.jsonl").write_text('{"completion": ' + "[" * 100_000 + "]" * 100_000 + "}")
    Path("long.jsonl").write_text('{"completion": ' + "1" * 5_000 + "}")
    for name, says in {
        "none.jsonl": "no such file or directory",
        "sample.jsonl": "such as samples.jsonl",
        "folder": "got     folder",
        "pipe": "got     pipe or device",
        "loop": "too many levels of symbolic links",
        "cut.parquet": "wanted  a Parquet file",
        "deep.jsonl": "JSON nested too deeply",
        "long.jsonl": "a number of more digits",
    }.items():
        assert main(["rewards", name]) == 2, name
        assert says in capsys.readouterr().err


def test_an_own_reward_without_its_function_is_told_what_it_lacks(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(project, "{mine: {weight: 1.0, timeout_s: 1}}")
    assert audit([{"prompt": "a", "completion": RIGHT, "gold": "5"}]) == 2
    err = capsys.readouterr().err
    assert "cosine`?" not in err
    assert "your own reward's, such as rewards/brevity.py:brevity" in err
    use(project, "{acuracy: {weight: 1.0, timeout_s: 1}}")
    assert audit([{"prompt": "a", "completion": RIGHT, "gold": "5"}]) == 2
    assert "did you mean `accuracy`?" in capsys.readouterr().err


def test_histogram_of_many_values_has_equal_bins() -> None:
    assert histogram([float(number) for number in range(101)]) == [
        *((f"{low} to {low + 10}", 10) for low in range(0, 90, 10)),
        ("90 to 100", 11),
    ]
