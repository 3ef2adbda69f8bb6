"""Stages that are killed at a moment, or run to their end, and what they left."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from posttrain.outputs.checkpoints import steps
from tests.forks import Run, hashes

RESULTS = {
    "sft": {"models/sft/model.safetensors", "results/sft/curve.tsv", "results/sft/metrics.json"},
    "grpo": {"models/grpo/model.safetensors", "results/grpo/curve.tsv", "results/grpo/samples.jsonl"},
}


def set_params(root: Path, changes: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    for section, keys in changes.items():
        params[section].update(keys)
    yaml.dump(params, root / "params.yaml")


def checkpoints(root: Path, stage: str) -> list[str]:
    return [path.name for run in (root / f".posttrain/checkpoints/{stage}").glob("*") for path in steps(run)]


def killed_at(forks: Any, root: Path, stage: str, step: int, **options: Any) -> Run:
    run = Run(forks, root, stage, **options)
    assert run.until(lambda: f"step-{step}" in checkpoints(root, stage)), run.output()
    assert run.kill(), "it ended before it could be killed"
    return run


def finished(forks: Any, root: Path, stage: str, **options: Any) -> str:
    run = Run(forks, root, stage, **options)
    assert run.wait() == 0, run.output()
    assert not checkpoints(root, stage), "a stage that has published leaves no checkpoint"
    return run.output()


def assert_same_bytes(root: Path, reference: Path, stage: str) -> None:
    mine, theirs = hashes(root, stage), hashes(reference, stage)
    assert RESULTS[stage] <= set(theirs)
    assert [name for name in theirs if mine.get(name) != theirs[name]] == []
    assert set(mine) == set(theirs)
