"""From `launch` to processes: what auto stands for, what is refused, what accelerate is told."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from posttrain.cli import main
from posttrain.errors import InputError
from posttrain.launch import layout as launch_layout
from posttrain.launch.accelerate import accelerate_config, environment
from posttrain.launch.environment import WORKER, is_worker, leave_out_foreign
from posttrain.launch.layout import chosen, layout, require
from posttrain.launch.supervisor import Worker, signal_of
from posttrain.params.file import load_params
from posttrain.params.launch import Launch
from posttrain.paths import PARAMS

Keys = dict[str, Any]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Everything left open, on a machine with four cores."""
    monkeypatch.setattr(launch_layout, "cores", lambda: 4)
    return Launch()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8, as far as can be told without one."""
    monkeypatch.setattr(launch_layout, "visible_gpus", lambda: 8)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "ddp, 2 processes, cpu"),
        ({"processes": 1}, "single, 1 process, cpu"),
        ({"strategy": "ddp"}, "ddp, 2 processes, cpu"),
        ({"strategy": "single"}, "single, 1 process, cpu"),
        ({"threads": 2}, "ddp, 2 processes, cpu"),
        ({"threads": 3}, "single, 1 process, cpu"),
        ({"threads": 0}, "single, 1 process, cpu"),
        ({"machines": 2}, "ddp, 4 processes on 2 machines, cpu"),
        ({"processes": 2}, "ddp, 2 processes, cpu"),
        ({"processes": 2, "strategy": "zero3"}, "zero3, 2 processes, cpu"),
        ({"strategy": "cpu"}, "single, 1 process, cpu"),
        ({"strategy": "zero2", "offload": "optimizer"}, "zero2, 1 process, cpu"),
        ({"processes": 4, "machines": 2}, "ddp, 4 processes on 2 machines, cpu"),
    ],
)
def test_layouts_without_gpus(launch: Launch, keys: Keys, expected: str) -> None:
    assert str(layout(launch.model_copy(update={"device": "cpu", **keys}))) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "zero2, 8 processes, cuda"),
        ({"strategy": "ddp"}, "ddp, 8 processes, cuda"),
        ({"strategy": "fsdp", "processes": 4}, "fsdp, 4 processes, cuda"),
        ({"strategy": "single"}, "single, 1 process, cuda"),
        ({"processes": 1}, "single, 1 process, cuda"),
        ({"strategy": "cpu"}, "single, 1 process, cpu"),
        ({"device": "cpu", "processes": 2}, "ddp, 2 processes, cpu"),
        ({"machines": 2}, "zero2, 16 processes on 2 machines, cuda"),
    ],
)
def test_layouts_with_gpus(gpus: None, launch: Launch, keys: Keys, expected: str) -> None:
    assert str(layout(launch.model_copy(update=keys))) == expected


@pytest.mark.parametrize(
    ("keys", "where", "got"),
    [
        ({"strategy": "ddp", "processes": 1}, "strategy", "ddp, processes 1"),
        ({"strategy": "single", "processes": 2}, "strategy", "single, processes 2"),
        ({"strategy": "cpu", "processes": 2}, "strategy", "cpu, processes 2"),
        ({"strategy": "fsdp", "processes": 2}, "strategy", "fsdp on the CPU"),
        ({"processes": 2, "offload": "optimizer"}, "offload", "optimizer with strategy ddp"),
        ({"processes": 2, "strategy": "zero2", "offload": "all"}, "offload", "all with strategy zero2"),
        ({"processes": 3, "machines": 2}, "processes", "3 on 2 machines"),
        ({"machine_rank": 1}, "machine_rank", "1 of 1 machine(s)"),
        ({"device": "cuda", "processes": 1}, "processes", "1 on 1 machine(s), and 0 GPU(s) here"),
    ],
)
def test_what_does_not_fit_is_refused(launch: Launch, keys: Keys, where: str, got: str) -> None:
    with pytest.raises(InputError) as refused:
        layout(launch.model_copy(update=keys))
    assert (refused.value.where, refused.value.got) == (f"params.yaml: launch.{where}", got)


def test_on_one_core_auto_is_one_process_and_ddp_is_refused(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_layout, "cores", lambda: 1)
    assert str(layout(launch)) == "single, 1 process, cpu"
    with pytest.raises(InputError, match="ddp, processes 1"):
        layout(launch.model_copy(update={"strategy": "ddp"}))


def test_what_ships_is_one_layout_on_every_machine(gpus: None, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GPUs or without, on one core or on many: its results are committed."""
    shipped = load_params(PARAMS).launch
    for number in (1, 64):
        monkeypatch.setattr(launch_layout, "cores", lambda number=number: number)
        found = layout(shipped)
        assert (str(found), found.threads) == ("ddp, 2 processes, cpu", 1)


def test_more_processes_than_gpus_are_refused(gpus: None, launch: Launch) -> None:
    with pytest.raises(InputError, match="9 on 1 machine"):
        layout(launch.model_copy(update={"processes": 9}))


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"strategy": "ddp"}, "MULTI_GPU"),
        ({"strategy": "zero2"}, "DEEPSPEED"),
        ({"strategy": "zero3", "offload": "all", "mixed_precision": "bf16"}, "DEEPSPEED"),
        ({"strategy": "fsdp"}, "FSDP"),
        ({"strategy": "zero3", "machines": 2, "machine_rank": 1, "main_address": "[::1]:123"}, "DEEPSPEED"),
    ],
)
def test_accelerate_reads_its_config(gpus: None, launch: Launch, tmp_path: Path, keys: Keys, kind: str) -> None:
    """By its own loader, which refuses keys that it does not know."""
    wanted = layout(launch.model_copy(update={"processes": 8, **keys}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(accelerate_config(wanted)))
    read = load_config_from_file(str(path))
    assert str(read.distributed_type).endswith(kind)
    assert (read.num_processes, read.mixed_precision) == (8, keys.get("mixed_precision", "no"))
    assert read.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(keys["strategy"])
    assert read.deepspeed_config.get("offload_param_device", "none") == ("cpu" if "offload" in keys else "none")
    if "machines" in keys:
        assert (read.num_machines, read.machine_rank) == (2, 1)
        assert (read.main_process_ip, read.main_process_port) == ("::1", 123)


def test_deepspeed_on_the_cpu_is_not_told_that_it_is_one(launch: Launch) -> None:
    """With ACCELERATE_USE_CPU accelerate would run DDP."""
    variables = {
        name: environment(layout(launch.model_copy(update={"processes": 2, "strategy": name})))
        for name in ("ddp", "zero2", "zero3")
    }
    assert [name for name, found in variables.items() if "ACCELERATE_USE_CPU" in found] == ["ddp"]


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_what_runs_has_to_be_what_was_asked_for(launch: Launch, strategy: str) -> None:
    wanted = layout(launch.model_copy(update={"processes": 2, "strategy": strategy}))
    stages = {"ddp": 0, "zero2": 2, "zero3": 3}
    for running, stage in stages.items():
        for processes in (1, 2):
            kind = "DistributedType.DEEPSPEED" if stage else "DistributedType.MULTI_CPU"
            plugin = SimpleNamespace(zero_stage=stage) if stage else None
            state = SimpleNamespace(deepspeed_plugin=plugin)
            accelerator = SimpleNamespace(
                distributed_type=kind, num_processes=processes, state=state, mixed_precision="no"
            )
            if (running, processes) == (strategy, 2):
                require(accelerator, wanted)
            else:
                with pytest.raises(InputError, match=f"{processes} process"):
                    require(accelerator, wanted)


def test_another_precision_than_that_of_params_is_refused(launch: Launch) -> None:
    """Whatever changed it: accelerate's own variable does where it is read."""
    state = SimpleNamespace(deepspeed_plugin=None)
    accelerator = SimpleNamespace(
        distributed_type="DistributedType.NO", num_processes=1, state=state, mixed_precision="bf16"
    )
    with pytest.raises(InputError, match="mixed precision bf16"):
        require(accelerator, layout(launch.model_copy(update={"processes": 1})))
    require(accelerator, layout(launch.model_copy(update={"processes": 1, "mixed_precision": "bf16"})))


def test_auto_is_never_left_open(launch: Launch) -> None:
    for processes, device in ((1, "cpu"), (2, "cpu"), (1, "cuda"), (8, "cuda")):
        assert chosen(launch, processes, device) != "auto"


# ---------------------------------------------------------------------------------------------------------------------
# Environment variables of one machine


def test_the_environment_stands_in_for_keys_of_launch(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_params(PARAMS)
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "4")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_STRATEGY", "zero2")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_REPORT_TO", "[tensorboard]")
    after = load_params(PARAMS)
    assert (after.launch.processes, after.launch.strategy, after.launch.report_to) == (4, "zero2", ["tensorboard"])
    assert after.model_copy(update={"launch": before.launch}) == before


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("POSTTRAIN_LAUNCH_PROCESES", "4", "POSTTRAIN_LAUNCH_PROCESSES"),
        ("POSTTRAIN_LAUNCH_PROCESSES", "0", "greater than or equal to 1"),
        ("POSTTRAIN_LAUNCH_STRATEGY", "zero9", "'zero3'"),
        ("POSTTRAIN_LAUNCH_STRATEGY", "[", "YAML"),
    ],
)
def test_a_wrong_variable_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError) as refused:
        load_params(PARAMS)
    assert refused.value.where == variable
    assert wanted in refused.value.wanted


# ---------------------------------------------------------------------------------------------------------------------
# Environment variables of others


FOREIGN = {
    **{"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871", "LOCAL_RANK": "0"},
    **{"OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_VERSION": "2"},
    **{"TORCHELASTIC_RUN_ID": "x", "NVIDIA_TF32_OVERRIDE": "1", "PARALLELISM_CONFIG_TP_SIZE": "2"},
}
OURS = {"OMP_NUM_THREADS": "3", "POSTTRAIN_LAUNCH_PROCESSES": "2", "NCCL_DEBUG": "INFO", "MY_RANK": "1"}


def test_what_others_say_of_ranks_and_precision_is_not_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**FOREIGN, **OURS}.items():
        monkeypatch.setenv(name, value)
    leave_out_foreign()
    assert not FOREIGN.keys() & os.environ.keys()
    assert OURS.items() <= os.environ.items()
    assert ", ".join(sorted(FOREIGN)) in capsys.readouterr().err
    leave_out_foreign()
    assert capsys.readouterr().err == ""


def test_a_worker_of_ours_keeps_what_its_launcher_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**FOREIGN, WORKER: "1"}.items():
        monkeypatch.setenv(name, value)
    leave_out_foreign()
    assert FOREIGN.items() <= os.environ.items()
    assert (is_worker(), launch_layout.world_size(), launch_layout.is_main()) == (True, 2, True)


def test_processors_that_train_in_place_of_a_gpu_are_told(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert launch_layout.hidden_gpus(launch) is None or launch_layout.NVIDIA.exists()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(launch_layout, "NVIDIA", tmp_path / "nvidiactl")
    assert "CUDA_VISIBLE_DEVICES='-1'" in (launch_layout.hidden_gpus(launch) or "")
    assert "launch.device is cpu" in (launch_layout.hidden_gpus(launch.model_copy(update={"device": "cpu"})) or "")
    assert launch_layout.hidden_gpus(launch.model_copy(update={"strategy": "cpu"})) is None


# ---------------------------------------------------------------------------------------------------------------------
# What a person sees


def test_show_prints_what_would_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "--show"]) == 0
    assert capsys.readouterr().out.endswith("-m posttrain.launch.ranks grpo 2\n")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "1")
    assert main(["launch", "--show"]) == 0
    assert "nothing is launched" in capsys.readouterr().out
    monkeypatch.setenv("POSTTRAIN_LAUNCH_PROCESSES", "2")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_STRATEGY", "zero3")
    assert main(["launch", "sft", "--show"]) == 0
    told = capsys.readouterr().out
    assert "launch | sft: zero3, 2 processes, cpu" in told
    assert "--config_file .posttrain/launch/sft.json --module posttrain.worker sft" in told
    assert json.loads(told[told.index("{") :])["deepspeed_config"]["zero_stage"] == 3


def test_the_launchers_log_says_which_signal_ended_a_worker() -> None:
    log = """
      exitcode  : -11 (pid: 4711)
      traceback : Signal 11 (SIGSEGV) received by PID 4711
    """
    dead = [Worker(1, pid, None) for pid in (4711, 471)]  # type: ignore[arg-type]
    assert [signal_of(worker, log) for worker in dead] == ["SIGSEGV", ""]


# ---------------------------------------------------------------------------------------------------------------------
# Stages that one process runs


def test_prepare_runs_on_a_machine_without_the_gpus_that_training_asks_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_STRATEGY", "fsdp")
    assert main(["prepare"]) == 0
    assert main(["sft"]) == 2


def test_machines_after_the_first_only_help(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTTRAIN_LAUNCH_MACHINES", "2")
    monkeypatch.setenv("POSTTRAIN_LAUNCH_MACHINE_RANK", "1")
    assert main(["prepare"]) == 2
    assert "machine 0" in capsys.readouterr().err
