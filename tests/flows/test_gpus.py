"""How many GPUs a stage takes of a machine, as its driver lists them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from flows.gpus import forgets_leases, gpus_here, gpus_taken, gpus_visible
from posttrain.errors import InputError
from posttrain.params.recipes import overlaid

ROOT = Path(__file__).parents[2]


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
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change(tmp_path, {"launch.device": "auto", "launch.processes": "auto"})
    return tmp_path


def change(machine: Path, changes: dict[str, Any]) -> None:
    params = machine / "params.yaml"
    params.write_text(overlaid(None, changes, params.read_text()))


def test_all_that_the_agent_sees_or_what_launch_says(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(gpus_here()) == 4
    assert {stage: gpus_taken(stage, machine) for stage in ("prepare", "sft", "grpo", "evaluate", "report")} == {
        **{"prepare": 0, "report": 0, "evaluate": 1},
        **{"sft": 4, "grpo": 4},
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus_visible() == ["2", "3"]
    assert gpus_taken("sft", machine) == 2
    change(machine, {"launch.processes": 1})
    assert gpus_taken("sft", machine) == 1
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "2")
    assert gpus_taken("sft", machine) == 2


def test_those_of_this_machine_where_several_share_the_stage(machine: Path) -> None:
    change(machine, {"launch.processes": 8, "launch.machines": 2, "launch.main_address": "10.0.0.1:29500"})
    assert gpus_taken("sft", machine) == 4


def test_those_of_a_vllm_server_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")  # training's; the server's are named apart
    change(machine, {"launch.vllm.gpus": [0, 1], "launch.vllm.tensor_parallel_size": 2, "launch.vllm.mode": "server"})
    assert gpus_taken("grpo", machine) == 2
    change(machine, {"grpo.use_vllm": True, "evaluate.use_vllm": True})
    assert {stage: gpus_taken(stage, machine) for stage in ("sft", "grpo", "evaluate")} == {
        **{"sft": 2, "grpo": 4, "evaluate": 2}
    }
    change(machine, {"launch.vllm.server_base_url": "http://127.0.0.1:8000"})
    assert gpus_taken("grpo", machine) == 2
    change(machine, {"launch.vllm.server_base_url": None, "launch.vllm.mode": "colocate"})
    assert gpus_taken("grpo", machine) == 2


def test_a_server_that_forgets_who_holds_what_is_known(server: None) -> None:
    with get_client(sync_client=True) as client:  # of a server with Prefect's defaults
        assert forgets_leases(client)
        with pytest.raises(PrefectHTTPStatusError):  # what a server without that page comes to
            client.request("GET", "/admin/nothing")


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
