"""Kept completions, seconds of a step, trackers: what a run leaves beside its curve."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from posttrain.grpo.records import KeptCompletions, StepClock
from posttrain.paths import GRPO_RESULTS, RUN_LOG
from posttrain.training.trl import GenerationBatch
from stages import grpo, prepare, sft
from tests.conftest import ParamsWith
from tests.unit.test_lora import SMALL as SMALL_WITH_ADAPTERS
from tests.unit.test_lora import VOWELS

VOWEL_PAY = {"weight": 2.0, "function": "rewards/vowels.py:vowels", "timeout_s": 5}
SMALL: dict[str, Any] = SMALL_WITH_ADAPTERS | {
    "model.name_or_path": "scratch",
    "model.lora": None,
    "grpo.max_steps": 4,
    "rewards": {"accuracy": {"weight": 1.0}, "vowels": VOWEL_PAY},
}


@pytest.fixture
def trained(project: Path, root: Path, params_with: ParamsWith) -> Path:
    """A project with a model of two steps of SFT."""
    (project / "rewards").mkdir()
    (project / "rewards/vowels.py").write_text(VOWELS)
    (project / "data/source").mkdir(parents=True)
    shutil.copy(root / "dvc.yaml", project)
    for stage in (prepare, sft):
        stage.run(params_with(SMALL))
    return project


def test_kept_completions_have_their_rewards_and_advantages_and_change_no_byte_elsewhere(
    trained: Path, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    file = GRPO_RESULTS / "completions.parquet"
    made = []
    for every in (2, 2, 0):
        grpo.run(params_with(SMALL | {"grpo.keep_completions_steps": every}))
        weights = Path("models/grpo/model.safetensors").read_bytes()
        made.append((file.read_bytes(), weights, (GRPO_RESULTS / "curve.tsv").read_bytes()))
    assert made[0] == made[1]  # equal runs, equal bytes
    assert made[2][1:] == made[0][1:]
    assert pq.read_table(file).num_rows == 0
    file.write_bytes(made[0][0])
    table = pq.read_table(file)
    assert table.column_names == ["step", "prompt", "completion", "accuracy", "vowels", "advantage"]
    rows = table.to_pylist()
    assert [row["step"] for row in rows] == [2] * 8 + [4] * 8
    for start in range(0, 16, 4):
        group = rows[start : start + 4]
        assert len({row["prompt"] for row in group}) == 1
        assert json.loads(group[0]["prompt"])[-1]["content"].startswith("Solve: ")
        totals = [row["accuracy"] + 2 * row["vowels"] for row in group]
        for row, total in zip(group, totals, strict=True):
            assert row["vowels"] == pytest.approx(1 + sum(letter in "aeiou" for letter in row["completion"]) / 8)
            assert row["advantage"] == pytest.approx(total - sum(totals) / 4, abs=1e-6)

    with (RUN_LOG / "grpo-steps.tsv").open() as lines:
        steps = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines, delimiter="\t")]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        assert list(row) == list(StepClock.COLUMNS)
        assert row["seconds"] == pytest.approx(row["generate_s"] + row["reward_s"] + row["update_s"], abs=1e-3)
        assert min(row.values()) > 0
        assert row["tokens_per_s"] * row["seconds"] > 8 * 10  # eight prompts of more than ten tokens
    assert "s/step" in capsys.readouterr().out


def no_batch() -> GenerationBatch:
    raise AssertionError("no step was trained")


def test_a_score_without_a_verdict_is_null() -> None:
    kept = KeptCompletions(1, ["accuracy"], no_batch)
    kept.rows = [{"step": 1, "prompt": "[]", "completion": "x", "accuracy": None, "advantage": 0.0}]
    assert kept.table().to_pylist() == kept.rows
    again = KeptCompletions(1, ["accuracy"], no_batch)
    again.load_resume_state(kept.resume_state())
    assert again.table().equals(kept.table())
    assert not math.isnan(kept.table()["advantage"][0].as_py())
