"""Dynamic sampling in two processes: equal decisions, groups whole wherever their halves were generated."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.launch.environment import WORKER
from posttrain.params.file import load_params
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens
from tests.distributed.dynamic_run import LAYOUTS, solved

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("dynamic_run.py")


def test_two_processes_replace_the_same_groups(tmp_path: Path) -> None:
    scratch = load_params(ROOT / "params.yaml").model.scratch
    tokenizer = train_tokenizer(["x = 3", "Solve: 3x - 5 = 10"], 384)
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    model = random_model(scratch.model_copy(update=small), tokenizer)
    align_special_tokens(model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        WORKER: "1",
    }
    out = tmp_path / "out.json"
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "model"), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for found, (size, _) in zip(json.loads(out.read_text()), LAYOUTS, strict=True):
        check(found, size)


def check(found: dict[str, Any], size: int) -> None:
    """What was trained on is what the rounds make of each other by the rule."""
    assert found["processes"] == 2
    assert len(set(found["drawn"])) == len(set(found["weights"])) == 1

    rounds, odd = iter(found["rounds"]), 0
    for batch, row in zip(found["batches"], found["rows"], strict=True):
        expected = groups_of(next(rounds), size)
        generated = len(expected)
        for _ in range(int(row["sampling/rounds"])):
            flat = [place for place, (number, _) in enumerate(expected) if solved(number)]
            fresh = groups_of(next(rounds), size)
            odd += len(flat) % 2
            assert len(fresh) == len(flat) + (len(flat) % 2 if size == 3 else 0)
            generated += len(fresh)
            for place, group in zip(flat, [group for group in fresh if not solved(group[0])], strict=False):
                expected[place] = group
        assert row["sampling/rounds"] == 2 or not any(solved(number) for number, _ in expected)
        assert row["sampling/generated"] == generated * size
        assert batch["ids"] == [ids for _, group in expected for ids in group]
        advantages = [
            0 if solved(number) else (place == 0) - 1 / size for number, _ in expected for place in range(size)
        ]
        assert batch["advantages"] == pytest.approx(advantages, abs=1e-6)
    assert next(rounds, None) is None
    assert odd


def groups_of(rows: list[tuple[int, list[int]]], size: int) -> list[tuple[int, list[list[int]]]]:
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    assert all(len({number for number, _ in group}) == 1 for group in groups)
    return [(group[0][0], [ids for _, ids in group]) for group in groups]
