"""vLLM: what TRL is told, what cannot work, the server's life and end, and the protocol of evaluation.

No GPU and no vLLM: a program with vLLM's command line, processes and endpoints stands in (vllm_server.py), and its
interpreter is `launch.vllm.python`. What starts, watches and ends it, and what asks it, is the real thing.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.errors import InputError, PosttrainError
from posttrain.evaluation.settings import Settings
from posttrain.generation.generators import Tokens
from posttrain.launch.environment import WORKER
from posttrain.params.file import check_params, read_yaml
from posttrain.params.launch import VLLM
from posttrain.params.schema import Params
from posttrain.vllm import rollouts as vllm
from posttrain.vllm.generator import WAITS_S, Client, VLLMServer
from posttrain.vllm.server import DIRECT, SERVER, command, environment, rollout_server, serving, version
from tests.held_locks import is_released

ParamsWith = Callable[[dict[str, Any]], Params]

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("vllm_server.py")
MODEL = Path("models/sft")
LOG = Path(".posttrain/logs/vllm-evaluate.log")
ENGINES = ("engine.lock", "worker.lock")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def write_stand_in(folder: Path) -> Path:
    program = folder / "stand-in"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def ask(project: Path) -> Callable[..., Params]:
    """Params, also in params.yaml, whose servers are the stand-in's; `**faults` is what goes wrong with it."""

    def build(changes: dict[str, Any] | None = None, **faults: Any) -> Params:
        os.environ["STAND_IN"] = json.dumps(faults)
        own = {"python": str(write_stand_in(project)), "gpus": [], "server_timeout": 20.0}
        ports = {"server_port": free_port(), "group_port": free_port()}
        data = read_yaml(ROOT / "params.yaml")
        keys = {f"launch.vllm.{name}": value for name, value in (own | ports).items()}
        for dotted, value in (keys | (changes or {})).items():
            *sections, key = dotted.split(".")
            section = data
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        with Path("params.yaml").open("w") as file:
            YAML().dump(data, file)
        return check_params(data, Path("params.yaml"))

    return build


def asked() -> list[dict[str, Any]]:
    """What the stand-in wrote down: how it was started, then each request."""
    return [json.loads(line) for line in Path("asked.jsonl").read_text().splitlines()]


# What TRL and the server are told


def told(params: Params, tmp_path: Path) -> tuple[Any, ...]:
    from posttrain.grpo import trainer as grpo_trainer

    config = grpo_trainer.trainer_config(params, tmp_path).to_dict()
    return config, command(params, MODEL, True), environment(params.launch.vllm, True)


OTHER: dict[str, Any] = {
    "mode": "server",
    "gpus": [1],
    "tensor_parallel_size": 2,
    "gpu_memory_utilization": 0.5,
    "max_model_length": 512,
    "enable_sleep_mode": True,
    "server_base_url": "http://10.0.0.7:8000",
    "server_host": "127.0.0.2",
    "server_port": 8001,
    "group_port": 51217,
    "server_timeout": 9.0,
    "python": "/bin/sh",
}


@pytest.mark.parametrize("key", VLLM.model_fields)
def test_every_knob_reaches_trl_or_the_server(key: str, params_with: ParamsWith, tmp_path: Path) -> None:
    base: dict[str, Any] = {"grpo.use_vllm": True}
    more = {"launch.vllm.gpus": [0, 1]} if key == "tensor_parallel_size" else {}
    before = told(params_with(base), tmp_path)
    after = told(params_with(base | more | {f"launch.vllm.{key}": OTHER[key]}), tmp_path)
    assert before != after


def test_the_config_of_colocate(params_with: ParamsWith, tmp_path: Path) -> None:
    from posttrain.grpo import trainer as grpo_trainer

    keys = {"gpu_memory_utilization": 0.4, "max_model_length": 200, "enable_sleep_mode": True}
    changes = {"grpo.use_vllm": True, **{f"launch.vllm.{name}": value for name, value in keys.items()}}
    config = grpo_trainer.trainer_config(params_with(changes), tmp_path)
    assert config.use_vllm is True
    assert config.vllm_mode == "colocate"
    assert {name: getattr(config, f"vllm_{name}") for name in keys} == keys
    assert config.vllm_importance_sampling_correction is True
    off = grpo_trainer.trainer_config(
        params_with({f"launch.vllm.{name}": value for name, value in keys.items()}), tmp_path
    )
    assert off.to_dict() == grpo_trainer.trainer_config(params_with({}), tmp_path).to_dict()


@pytest.mark.parametrize("name", ["use_vllm", *(f"vllm_{name}" for name in vllm.TRLS)])
def test_what_params_decide_is_no_further_option(name: str, params_with: ParamsWith, tmp_path: Path) -> None:
    from posttrain.grpo import trainer as grpo_trainer

    with pytest.raises(InputError, match="sets itself") as caught:
        grpo_trainer.trainer_config(params_with({"grpo.trl": {name: 1}}), tmp_path)
    assert caught.value.where == f"params.yaml: grpo.trl.{name}"


def test_the_server_is_told_seed_type_and_gpus(params_with: ParamsWith) -> None:
    changes = {
        **{"seed": 7, "model.dtype": "bfloat16", "model.trust_remote_code": True},
        **{"launch.vllm.gpus": [2, 3], "launch.vllm.tensor_parallel_size": 2, "launch.vllm.max_model_length": 128},
    }
    params = params_with(changes)
    python, *rest = command(params, MODEL, takes_weights=False)
    assert python == sys.executable
    assert rest == [
        *("-m", "vllm.entrypoints.cli.main", "serve", "models/sft"),
        *("--host", "127.0.0.1", "--port", "8000", "--tensor-parallel-size", "2"),
        *("--gpu-memory-utilization", "0.3", "--max-model-len", "128", "--dtype", "bfloat16", "--seed", "7"),
        *("--model-impl", "auto", "--generation-config", "vllm", "--trust-remote-code"),
    ]
    assert "--no-enable-chunked-prefill" in command(params_with({"launch.vllm.gpus": []}), MODEL, takes_weights=False)
    told = environment(params.launch.vllm, takes_weights=False)
    assert told["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "VLLM_SERVER_DEV_MODE" not in told


@pytest.mark.parametrize(
    ("tensor_parallel_size", "process", "seed"),
    [(1, 0, 11), (1, 3, 14), (2, 0, 11), (2, 1, 11), (2, 2, 12), (2, 3, 12)],
)
def test_processes_that_share_a_model_draw_alike(
    params_with: ParamsWith, tensor_parallel_size: int, process: int, seed: int
) -> None:
    import torch

    changes = {
        **{"seed": 11, "grpo.use_vllm": True, "launch.vllm.gpus": list(range(tensor_parallel_size))},
        **{"launch.vllm.tensor_parallel_size": tensor_parallel_size},
    }
    torch.manual_seed(0)
    vllm.reseed(params_with(changes), process)
    assert torch.initial_seed() == seed
    torch.manual_seed(0)
    vllm.reseed(params_with(changes | {"launch.vllm.mode": "server"}), process)
    vllm.reseed(params_with(changes | {"grpo.use_vllm": False}), process)
    assert torch.initial_seed() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"launch.vllm.gpus": [0, 1]}, "tensor_parallel_size 1 with gpus"),
        ({"launch.vllm.gpus": [0, 0], "launch.vllm.tensor_parallel_size": 2}, "each number once"),
        ({"launch.vllm.server_port": 51216}, "both 51216"),
        ({"launch.vllm.server_base_url": "localhost:8000"}, "server_base_url"),
        ({"grpo.use_vllm": True, "launch.vllm.max_model_length": 80}, "no room .* grpo.max_completion_length 80"),
        ({"evaluate.use_vllm": True, "launch.vllm.max_model_length": 80}, "no room .* evaluate.max_new_tokens 80"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], said: str, params_with: ParamsWith) -> None:
    with pytest.raises(InputError, match=said):
        params_with(changes)


# What cannot work here


def install_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch, number: str = "0.30.0") -> None:
    """A package of that name and version on the path, and nothing in it."""
    (folder / "site/vllm").mkdir(parents=True)
    (folder / "site/vllm/__init__.py").touch()
    (folder / f"site/vllm-{number}.dist-info").mkdir()
    (folder / f"site/vllm-{number}.dist-info/METADATA").write_text(f"Name: vllm\nVersion: {number}\n")
    monkeypatch.syspath_prepend(str(folder / "site"))
    importlib.invalidate_caches()


USED = {"grpo.use_vllm": True, "evaluate.use_vllm": True, "launch.device": "auto"}


def test_no_vllm_and_no_gpu_are_faults_of_the_check(
    params_with: ParamsWith, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.commands.check.checks import findings

    params = params_with({**USED, "prepare.dataset": "none.jsonl"})
    monkeypatch.setattr(vllm, "GPU_DEVICES", ())
    without = [finding for finding in findings(params) if finding.level == "fault"]
    assert {(fault.where, fault.saw[:20]) for fault in without} == {
        ("params.yaml: grpo.use_vllm", "true, and no package"),
        ("params.yaml: evaluate.use_vllm", "true, and no GPU on "),
    }
    install_vllm(project, monkeypatch)
    with pytest.raises(InputError, match="no GPU on this machine"):
        vllm.require_rollouts(params)
    monkeypatch.setattr(vllm, "GPU_DEVICES", ("/dev/null",))
    vllm.require_rollouts(params)
    vllm.require_completions(params)
    with pytest.raises(InputError, match=r"launch\.device cpu"):
        vllm.require_rollouts(params_with({"grpo.use_vllm": True, "launch.device": "cpu"}))
    vllm.require_rollouts(params_with({"launch.device": "cpu"}))


@pytest.mark.parametrize(("size", "processes", "whole"), [(1, 3, True), (2, 4, True), (2, 1, False), (2, 3, False)])
def test_processes_that_share_a_model_are_whole_groups(size: int, processes: int, whole: bool) -> None:
    if whole:
        vllm.require_whole_groups(size, processes)
    else:
        with pytest.raises(InputError, match=f"{size}, and {processes} training process"):
            vllm.require_whole_groups(size, processes)


@pytest.mark.parametrize(
    ("gpus", "visible", "apart"),
    [
        ([0], "1", True),
        ([0], "1,2, 3", True),
        ([2, 3], "0,1", True),
        ([0], "0", False),
        ([1, 2], "0,1", False),
        ([1], "10,11", True),
        ([0], None, False),  # every GPU
        ([0], "", False),  # none for training
        ([], "0", False),  # none for the server
        ([0], "GPU-8f3a,GPU-77b1", False),  # cannot be compared
    ],
)
def test_the_server_and_training_have_gpus_of_their_own(
    params_with: ParamsWith, gpus: list[int], visible: str | None, apart: bool
) -> None:
    size = {"launch.vllm.tensor_parallel_size": max(1, len(gpus))}
    own = params_with({"launch.vllm.gpus": gpus, **size}).launch.vllm
    if apart:
        vllm.require_gpus_apart(own, visible)
    else:
        with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES") as caught:
            vllm.require_gpus_apart(own, visible)
        assert caught.value.where == "params.yaml: launch.vllm.gpus"


def test_no_interpreter_names_the_command_that_makes_it(params_with: ParamsWith, project: Path) -> None:
    with pytest.raises(InputError, match="make vllm") as caught:
        command(params_with({"launch.vllm.python": ".venv-vllm/bin/python"}), MODEL, takes_weights=False)
    assert caught.value.where == "params.yaml: launch.vllm.python"


# The server's life


def test_a_server_is_ready_within_the_block_and_gone_after_it(
    ask: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    params = ask({"seed": 5}, healthy_after_s=0.5)
    with serving(params, "evaluate", MODEL) as (url, process):
        assert version(url) == "0.30.0"
        assert not is_released("server.lock", 0.05)
        assert [is_released(name, 0.05) for name in ENGINES] == [False, False]
    assert process.poll() is not None
    assert [is_released(name, 0.5) for name in ("server.lock", *ENGINES)] == [True] * 3
    started = asked()[0]
    assert (started["argv"]["model"], started["argv"]["seed"]) == ("models/sft", 5)
    assert started["argv"]["weight_transfer_config"] is None
    assert started["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert "WORLD_SIZE" not in started["environment"]
    assert "loading the model" in LOG.read_text()


def test_a_server_that_dies_early_shows_the_end_of_its_log(ask: Callable[..., Params]) -> None:
    began = time.monotonic()
    with pytest.raises(PosttrainError, match="exited with 1") as caught, serving(ask(dies=True), "evaluate", MODEL):
        pass
    assert "CUDA out of memory" in str(caught.value)
    assert str(LOG) in str(caught.value)
    assert time.monotonic() - began < 5


def test_a_server_that_is_never_ready_is_given_up_and_ended(ask: Callable[..., Params]) -> None:
    params = ask({"launch.vllm.server_timeout": 1.0}, healthy_after_s=99)
    with pytest.raises(InputError, match="503 after 1 s") as caught, serving(params, "evaluate", MODEL):
        pass
    assert "loading the model" in caught.value.got
    assert [is_released(name, 0.5) for name in ("server.lock", *ENGINES)] == [True] * 3


def test_a_program_that_cannot_be_run_is_said(ask: Callable[..., Params], project: Path) -> None:
    params = ask()
    (project / "stand-in").write_text("#!/nowhere\n")
    with pytest.raises(PosttrainError, match="exited with 127"), serving(params, "evaluate", MODEL):
        pass
    assert "No such file" in LOG.read_text()


def test_a_port_that_is_taken_is_named_and_nothing_starts(ask: Callable[..., Params]) -> None:
    params = ask()
    with (
        socket.create_server(("127.0.0.1", params.launch.vllm.server_port)),
        pytest.raises(InputError, match="Address already in use") as caught,
        serving(params, "evaluate", MODEL),
    ):
        pass
    assert caught.value.where == "params.yaml: launch.vllm.server_port"
    assert not Path("asked.jsonl").exists()


def test_an_error_in_the_block_ends_the_server_and_stays_what_it_was(ask: Callable[..., Params]) -> None:
    with pytest.raises(ZeroDivisionError), serving(ask(), "evaluate", MODEL):
        _ = 1 / 0
    assert [is_released(name, 0.5) for name in ("server.lock", *ENGINES)] == [True] * 3


HOLDS = """
import signal, sys, time
from pathlib import Path
from posttrain.params.file import load_params
from posttrain.vllm.server import rollout_server, serving
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
params = load_params(Path("params.yaml"))
with {context}:
    Path("inside").touch()
    time.sleep(60)
"""


def start_holder(context: str) -> "subprocess.Popen[bytes]":
    """A process that enters `context` and stays there."""
    path = os.pathsep.join([str(ROOT), *(["site"] if Path("site").exists() else [])])
    program = [sys.executable, "-c", HOLDS.format(context=context)]
    with Path("holder.log").open("wb") as log:
        process = subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path}, stderr=log)
    end = time.monotonic() + 20
    while not Path("inside").exists():
        assert process.poll() is None, Path("holder.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_leaves_nothing(ask: Callable[..., Params], number: signal.Signals) -> None:
    ask()
    process = start_holder('serving(params, "evaluate", Path("models/sft"))')
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == {signal.SIGTERM: 128 + signal.SIGTERM}.get(number, -number)
    assert all(is_released(name) for name in ("server.lock", *ENGINES))
    assert time.monotonic() - began < 10


def test_a_keeper_that_is_killed_takes_the_server_with_it(ask: Callable[..., Params]) -> None:
    def lose_the_keeper() -> None:
        with serving(ask(no_engine=True), "evaluate", MODEL) as (_, process):
            process.kill()
            assert is_released("server.lock")
            raise ConnectionError

    with pytest.raises(PosttrainError, match="exited with -9"):
        lose_the_keeper()


# The server of grpo


@pytest.fixture
def rollouts(ask: Callable[..., Params], project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """Params of a grpo that generates with a server, in an environment that has the stand-in's version of vLLM."""
    install_vllm(project, monkeypatch)

    def build(changes: dict[str, Any] | None = None, **faults: Any) -> Params:
        return ask({"grpo.use_vllm": True, "launch.vllm.mode": "server", **(changes or {})}, **faults)

    return build


def test_grpo_has_a_server_that_takes_weights(rollouts: Callable[..., Params]) -> None:
    params = rollouts({"seed": 3})
    with rollout_server(params):
        url = os.environ[SERVER]
        assert url == f"http://127.0.0.1:{params.launch.vllm.server_port}"
        assert "127.0.0.1" in os.environ["no_proxy"]
        with rollout_server(params):  # in a process that this one starts
            assert len(asked()) == 1
        assert version(url) == "0.30.0"
    assert SERVER not in os.environ
    started = asked()[0]
    argv = started["argv"]
    assert (argv["seed"], argv["logprobs_mode"], argv["max_logprobs"]) == (3, "processed_logprobs", -1)
    assert json.loads(argv["weight_transfer_config"]) == {"backend": "nccl"}
    assert started["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert Path(".posttrain/logs/vllm-grpo.log").is_file()


@pytest.mark.parametrize(
    ("changes", "variables"),
    [({"grpo.use_vllm": False}, {}), ({"launch.vllm.mode": "colocate"}, {}), ({}, {WORKER: "1", "RANK": "1"})],
)
def test_nobody_else_starts_one(
    rollouts: Callable[..., Params],
    changes: dict[str, Any],
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with rollout_server(rollouts(changes)):
        assert not Path("asked.jsonl").exists()


def test_a_server_that_runs_already_is_used_and_not_stopped(rollouts: Callable[..., Params]) -> None:
    params = rollouts()
    with serving(params, "evaluate", MODEL) as (url, process):
        with rollout_server(rollouts({"launch.vllm.server_base_url": url})):
            pass
        assert len(asked()) == 1
        assert process.poll() is None
        assert version(url) == "0.30.0"
    gone = rollouts({"launch.vllm.server_base_url": url, "launch.vllm.server_timeout": 0.2})
    with pytest.raises(InputError, match="refused") as caught, rollout_server(gone):
        pass
    assert caught.value.where == f"{url}/health"


def test_two_versions_of_vllm_do_not_train_together(rollouts: Callable[..., Params]) -> None:
    with pytest.raises(InputError, match=r"vLLM 0\.27\.1, and 0\.30\.0"), rollout_server(rollouts(version="0.27.1")):
        pass
    assert is_released("server.lock", 0.5)


def test_the_port_of_the_weights_is_looked_at_first(rollouts: Callable[..., Params]) -> None:
    params = rollouts()
    with (
        socket.create_server(("127.0.0.1", params.launch.vllm.group_port)),
        pytest.raises(InputError) as caught,
        rollout_server(params),
    ):
        pass
    assert caught.value.where == "params.yaml: launch.vllm.group_port"
    assert not Path("asked.jsonl").exists()


def test_a_server_that_dies_while_training_waits_ends_training(rollouts: Callable[..., Params]) -> None:
    from urllib.error import URLError

    params = rollouts(dies_after=0)
    process = start_holder("rollout_server(params)")
    body = json.dumps({"prompt": [1], "n": 1, "max_tokens": 1}).encode()
    with pytest.raises((URLError, ConnectionError)):
        DIRECT.open(f"http://127.0.0.1:{params.launch.vllm.server_port}/v1/completions", body, timeout=10)
    assert process.wait(10) == 1
    said = Path("holder.log").read_text()
    assert "the vLLM server exited with 5" in said
    assert "an illegal memory access" in said
    assert all(is_released(name, 0.5) for name in ENGINES)


def test_the_stand_in_answers_trls_own_client(ask: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.generation import vllm_client

    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda: True)
    with serving(ask(), "evaluate", MODEL) as (url, _):
        client = vllm_client.VLLMClient(base_url=url)
        answer = client.generate([[1, 2, 3], [4, 5]], n=2, max_tokens=4)
        client.session.close()
    assert client.model == "models/sft"
    assert answer["prompt_ids"] == [[1, 2, 3], [4, 5]]
    assert len(answer["completion_ids"]) == 4
    # Whatever vLLM would take from a model's generation_config.json, the request names.
    named = {"repetition_penalty", "temperature", "top_p", "top_k", "min_p", "max_tokens"}
    assert named <= set(asked()[-1])


# The protocol of evaluation

PROMPTS = [[11, 12], [13], [14, 15, 16]]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, sooner after each other."""
    monkeypatch.setattr("posttrain.vllm.generator.WAITS_S", (0.02,) * len(WAITS_S))


ENDS = {0, 98}


def completions(params: Params, ends: set[int] = ENDS) -> Tokens:
    settings = Settings.of(params)
    with VLLMServer(MODEL, params, params.evaluate.num_samples) as generator:
        return generator.write(PROMPTS, settings.sampling, ends, settings.seeds(len(PROMPTS)), lambda _: None)


def test_every_sample_has_its_own_seed_and_the_samplers_parameters(ask: Callable[..., Params]) -> None:
    keys = {"num_samples": 2, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 6}
    rows = completions(ask({"seed": 2**31 - 4, **{f"evaluate.{name}": value for name, value in keys.items()}}))
    seeds = [2**31 - 4, 2**31 - 3, 2**31 - 2, 2**31 - 1, 0, 1]
    requests = sorted(asked()[1:], key=lambda request: seeds.index(request["seed"]))
    assert [(request["prompt"], request["seed"]) for request in requests] == [
        (PROMPTS[number // 2], seed) for number, seed in enumerate(seeds)
    ]
    sent = {"model": "models/sft", "n": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_tokens": 6}
    assert all(request.items() >= {**sent, "stop_token_ids": [0, 98]}.items() for request in requests)
    # Each completion is the one drawn from its prompt and seed, whatever order the server worked in.
    again = completions(
        ask({"seed": 2**31 - 4, "evaluate.batch_size": 1, **{f"evaluate.{k}": v for k, v in keys.items()}})
    )
    assert again == rows
    assert len({tuple(ids) for row in rows for ids in row}) == 6
    assert completions(ask({f"evaluate.{name}": value for name, value in keys.items()})) != rows


def test_any_token_that_ends_a_turn_ends_a_completion(ask: Callable[..., Params]) -> None:
    """Gemma's template ends a turn with a token that is not its tokenizer's."""
    params = ask(choice={"token_ids": [5, 98], "finish_reason": "stop"}, no_engine=True)
    assert completions(params) == [[[5, 98]] * params.evaluate.num_samples] * len(PROMPTS)
    with pytest.raises(PosttrainError, match="no whole completion"):
        completions(params, {0})


@pytest.mark.parametrize("fault", [{"busy": 2}, {"busy": 2, "status": 429}, {"cut_off": 2}])
@pytest.mark.usefixtures("soon")
def test_a_busy_server_and_a_broken_answer_are_asked_again(ask: Callable[..., Params], fault: dict[str, int]) -> None:
    assert [len(row) for row in completions(ask({"evaluate.max_new_tokens": 6}, **fault))] == [4, 4, 4]


@pytest.mark.usefixtures("soon")
def test_a_server_that_stays_busy_is_an_error(ask: Callable[..., Params]) -> None:
    with pytest.raises(PosttrainError, match=r"gives no completion: 503 .*try again"):
        completions(ask(busy=10**6))
    assert len(asked()) == 1


def test_what_the_server_refuses_is_wrong_input(ask: Callable[..., Params]) -> None:
    params = ask({"launch.vllm.max_model_length": 8, "evaluate.max_new_tokens": 6})
    with pytest.raises(InputError, match=r"400 .*maximum context length is 8") as caught:
        completions(params)
    assert "launch.vllm.max_model_length" in caught.value.do


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "abort"},
        {"finish_reason": None},
        {"token_ids": None},
        {"token_ids": [5, 6], "finish_reason": "stop"},  # without the end token
        {"token_ids": [5, 6], "finish_reason": "length"},  # shorter than was asked for
        {"prompt_token_ids": [1, 1]},
    ],
    ids=str,
)
def test_a_partial_answer_is_no_completion(ask: Callable[..., Params], choice: dict[str, Any]) -> None:
    with pytest.raises(PosttrainError, match="no whole completion"):
        completions(ask(choice=choice, no_engine=True))


@pytest.mark.usefixtures("soon")
def test_a_server_that_dies_meanwhile_is_the_error_that_is_told(ask: Callable[..., Params]) -> None:
    with pytest.raises(PosttrainError, match="exited with 5") as caught:
        completions(ask(dies_after=3))
    assert "an illegal memory access" in str(caught.value)


def test_completions_that_take_too_long_are_given_up(ask: Callable[..., Params]) -> None:
    with serving(ask(), "evaluate", MODEL) as (url, _):
        settings = Settings.of(ask())
        client = Client(url, str(MODEL), ask(), settings.sampling, ENDS)
        client.deadline = time.monotonic()
        with pytest.raises(PosttrainError, match=r"longer than launch\.evaluate_timeout_s=1800"):
            client.complete(PROMPTS, settings.seeds(len(PROMPTS)), lambda _: None)
