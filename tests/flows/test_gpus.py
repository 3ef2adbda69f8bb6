"""How many GPUs a stage takes of a machine, as its driver lists them."""

from pathlib import Path

import pytest

from flows.gpus import gpus_here, gpus_taken, gpus_visible
from stages.errors import InputError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on a machine whose driver lists four GPUs, one of them cut into two instances."""
    for name in ("CUDA_VISIBLE_DEVICES", "POSTTRAIN_LAUNCH_PROCESSES", "POSTTRAIN_LAUNCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    driver = tmp_path / "nvidia-smi"
    listing = "".join(f"GPU {number}: NVIDIA H200 (UUID: GPU-{number})\n" for number in range(4))
    driver.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}  MIG 1g.18gb Device 0: (UUID: MIG-1)\nEND\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "params.yaml").write_text("launch: {device: auto, processes: auto}\n")
    return tmp_path


def test_all_that_the_agent_sees_or_what_launch_says(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(gpus_here()) == 4
    assert {stage: gpus_taken(stage, machine) for stage in ("prepare", "sft", "grpo", "evaluate", "report")} == {
        **{"prepare": 0, "report": 0, "evaluate": 1},
        **{"sft": 4, "grpo": 4},
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus_visible() == ["2", "3"]
    assert gpus_taken("sft", machine) == 2
    (machine / "params.yaml").write_text("launch: {device: auto, processes: 1}\n")
    assert gpus_taken("sft", machine) == 1
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "2")
    assert gpus_taken("sft", machine) == 2


def test_none_on_the_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_DEVICE", "cpu")
    assert gpus_taken("sft", machine) == 0
    monkeypatch.delenv("POSTTRAIN_LAUNCH_DEVICE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_taken("sft", machine) == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (machine / "nvidia-smi").unlink()
    assert gpus_taken("sft", machine) == 0


def test_more_than_there_are_is_an_error_with_both_numbers(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "8")
    with pytest.raises(InputError, match=r"(?s)got     8.*at most the 4 GPUs"):
        gpus_taken("grpo", machine)
