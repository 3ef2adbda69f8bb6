"""What a run shows, from files of a run."""

import json
from pathlib import Path

import pytest

from flows.artifacts import metrics_table, sparkline, summary
from flows.stage_run import StageRun
from posttrain.errors import InputError

CURVE = "step\treward/accuracy\treward/total\tadvantage/std\n1\t0.25\t0.5\tnan\n2\t0.75\t1\t\n"
METRICS = {"verdict": "improved", "sft": {"pass@1": 0.25}, "grpo": {"pass@1": 0.5}}


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[1]", "{}", '{"sft": 1, "grpo": {}}', "[" * 100_000])
def test_metrics_that_were_edited_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results/evaluate/metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=r"evaluate/metrics\.json"):
        summary([StageRun("evaluate", "ran", 1.0)], tmp_path)


def test_only_what_the_run_brought_up_to_date_is_shown(tmp_path: Path) -> None:
    for name, content in (("grpo/curve.tsv", CURVE), ("evaluate/metrics.json", json.dumps(METRICS))):
        (tmp_path / "results" / name).parent.mkdir(parents=True)
        (tmp_path / "results" / name).write_text(content)
    grpo, evaluate = StageRun("grpo", "ran", 61.2), StageRun("evaluate", "unchanged", 0.8)
    shown = summary([grpo], tmp_path)
    assert "| grpo | ran | 61 |" in shown
    assert "| grpo reward/accuracy | 0.25 | 0.75 | ▁█ |" in shown
    assert "advantage/std" not in shown  # it has no number
    assert "improved" not in shown
    assert metrics_table([grpo], tmp_path) == []

    shown = summary([evaluate], tmp_path)
    assert "**improved**: pass@1 0.250 after SFT, 0.500 after GRPO" in shown
    assert "reward/accuracy" not in shown
    assert metrics_table([evaluate], tmp_path)[1:] == [
        {"stage": "evaluate", "metric": "sft.pass@1", "value": 0.25},
        {"stage": "evaluate", "metric": "grpo.pass@1", "value": 0.5},
    ]


def test_a_sparkline_is_short_and_keeps_the_shape() -> None:
    assert sparkline([3.0]) == "▁"
    assert sparkline([0.0, 7.0, 3.5]) == "▁█▅"
    rising = sparkline([float(step) for step in range(400)])
    assert len(rising) == 40
    assert list(rising) == sorted(rising)
    assert set(rising) == set("▁▂▃▄▅▆▇█")
