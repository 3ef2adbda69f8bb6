"""`posttrain plan`: numbers by hand, DeepSpeed's own estimators, and tensors of real small models."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from posttrain.cli import main
from posttrain.commands.check.estimate import GIB, Shape
from posttrain.commands.plan import command as plan_command
from posttrain.commands.plan import memory as plan_memory
from posttrain.commands.plan import model as plan_model
from posttrain.commands.plan import request as plan_request
from posttrain.commands.plan import seconds as plan_seconds
from posttrain.commands.plan.model import Decoder
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.request import DDP, LORA, PRECISIONS, ZERO2, ZERO3, Cluster, Engine, Work
from posttrain.errors import InputError
from posttrain.params.file import load_params
from posttrain.params.recipes import overlaid
from posttrain.paths import PARAMS

MIXED = PRECISIONS["mixed"]
SEVEN = plan_model.of_size(7e9)
WORK = Work(512, 256, 1024, iterations=1, steps=500, reference=True, rank=16, adapters=False)
NODE = Cluster(8, 80.0, plan_request.default_reserve_gib(80.0))
ASLEEP = Engine(server=False, tensor_parallel=1, share=0.3, sleeps=True)
SERVER = Engine(server=True, tensor_parallel=2, share=0.9, sleeps=False)
SMALL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
TINY = {**SMALL, "num_key_value_heads": 2, "vocab_size": 384}


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (Qwen2Config(**TINY), Qwen2ForCausalLM),
        (Qwen2Config(**TINY, tie_word_embeddings=True), Qwen2ForCausalLM),
        (Qwen3Config(**TINY, head_dim=32), Qwen3ForCausalLM),
        (LlamaConfig(**TINY), LlamaForCausalLM),
        (LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), LlamaForCausalLM),
    ],
)
def test_the_parameters_of_a_config_are_those_of_the_model(config: Any, model: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    real = model(config)
    counted = plan_model.from_config(tmp_path / "config.json")
    assert counted.parameters == sum(p.numel() for p in real.parameters())
    linear = [m for name, m in real.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert counted.adapted == sum(m.in_features + m.out_features for m in linear)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304), ("Qwen2.5-7B", 7_615_616_512)],
)
def test_the_widths_are_those_of_published_models(name: str, parameters: int) -> None:
    assert plan_model.decoder(plan_model.QWEN[name], name).parameters == parameters


def test_a_size_alone_takes_the_nearest_widths() -> None:
    assert (SEVEN.parameters, SEVEN.shape.hidden, SEVEN.shape.layers) == (7_000_000_000, 3584, 28)
    assert plan_model.of_size(2e9).shape.hidden == 1536
    for size in (1e6, 1e12):
        with pytest.raises(InputError, match="--config"):
            plan_model.of_size(size)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model_type": "mixtral"}', json.dumps({"model_type": "qwen2", "hidden_size": "x"})]
)
def test_a_config_that_cannot_be_counted_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError):
        plan_model.from_config(tmp_path / "config.json")
    with pytest.raises(InputError):
        plan_model.from_config(tmp_path / "missing.json")


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def test_states_by_hand() -> None:
    p = 7e9
    assert plan_memory.states(SEVEN, DDP, 8, MIXED, 16) == (2 * p, 2 * p, 12 * p)
    assert plan_memory.states(SEVEN, ZERO2, 8, MIXED, 16) == (2 * p, 2 * p / 8, 12 * p / 8)
    assert plan_memory.states(SEVEN, ZERO3, 8, MIXED, 16) == (2 * p / 8, 2 * p / 8, 12 * p / 8)
    assert sum(plan_memory.states(SEVEN, ZERO3, 8, MIXED, 16)) == p * 16 / 8 == 14e9
    assert plan_memory.states(SEVEN, DDP, 1, PRECISIONS["float32"], 16) == (4 * p, 4 * p, 8 * p)
    # 28 layers; q, o: 2 x (3584 + 3584); k, v: 2 x (3584 + 512); gate, up, down: 3 x (3584 + 18944)
    adapter = 16 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert plan_memory.states(SEVEN, LORA, 8, MIXED, 16) == (2 * p + 4 * adapter, 4 * adapter, 8 * adapter)


def test_a_figure_of_the_zero_paper() -> None:
    # Figure 1 of arXiv:1910.02054: 7.5 billion parameters, 64 GPUs: 120 GB, 16.6 GB and 1.9 GB.
    model = replace(SEVEN, parameters=7_500_000_000)
    total = {
        strategy.name: sum(plan_memory.states(model, strategy, 64, MIXED, 1)) / 1e9 for strategy in (DDP, ZERO2, ZERO3)
    }
    assert total["ddp"] == pytest.approx(120.0)
    assert total["zero2"] == pytest.approx(16.6, abs=0.05)
    assert total["zero3 / fsdp"] == pytest.approx(1.9, abs=0.05)


@pytest.mark.parametrize("gpus", [2, 8, 64])
@pytest.mark.filterwarnings("ignore")
def test_states_and_update_are_deepspeeds_own_estimate(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    for model in (SEVEN, plan_model.of_size(1.5e9)):
        p, update = model.parameters, plan_memory.update(model, ZERO2, gpus, MIXED)
        ours = sum(plan_memory.states(model, ZERO2, gpus, MIXED, 1)) + update
        assert ours == pytest.approx(zero2(p, gpus, 1, cpu_offload=False)[1], rel=1e-6)
        gathered = 4 * model.largest_layer
        ours = sum(plan_memory.states(model, ZERO3, gpus, MIXED, 1)) + update + gathered
        # 2 + 2 + 12 and 4 of float32 gradients are 20 bytes a parameter, as in theirs of ZeRO-2; of ZeRO-3 it says 18.
        theirs = zero3(p, model.largest_layer, gpus, 1, cpu_offload=False, cpu_offload_params=False)[1]
        assert ours - theirs == pytest.approx(2 * p / gpus, abs=2)
        buckets = 2 * 2 * plan_memory.BUCKET
        assert plan_memory.buffers(model, ZERO3, gpus, MIXED, 1) == buckets + gathered


def trained_step(config: Qwen2Config) -> tuple[Qwen2ForCausalLM, torch.optim.AdamW]:
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
    optimizer.step()
    return model, optimizer


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_states_are_the_tensors_of_a_real_step(tied: bool) -> None:
    config = Qwen2Config(**TINY, tie_word_embeddings=tied)
    model, optimizer = trained_step(config)
    moments = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    counted = plan_model.decoder(config.to_dict(), "tiny")
    weights = bytes_of(model.parameters()), bytes_of(p.grad for p in model.parameters()), bytes_of(moments)
    assert plan_memory.states(counted, DDP, 1, PRECISIONS["float32"], 16) == weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_a_real_pass_saves(dtype: torch.dtype, checkpointing: bool) -> None:
    config = Qwen2Config(**{**TINY, "num_hidden_layers": 8})
    model = Qwen2ForCausalLM(config).to(dtype).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes(), tensor  # held, or the address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(torch.ones(4, 64, dtype=torch.long), use_cache=False)
    real = sum(size for size, _ in saved.values())
    counted = plan_model.decoder(config.to_dict(), "tiny")
    expected = plan_memory.activations(counted, 4 * 64, dtype.itemsize, checkpointing)
    if checkpointing:  # the layer that is recomputed is there in the backward pass alone
        expected -= 4 * 64 * plan_memory.layer_bytes(counted, dtype.itemsize)
    assert expected == pytest.approx(real, rel=0.15)


def test_the_rest_of_memory_by_hand() -> None:
    model = Decoder("x", Shape(10, 20, 2, 100, 5, tied=False), queries=10, parameters=4000, adapted=300)
    work = Work(16, 6, 4, iterations=1, steps=1, reference=True, rank=2, adapters=False)
    # queries and output 20, keys and values 10, four of 20; two norms of (4 + 2 + 2) x 10
    assert plan_memory.layer_bytes(model, 2) == 2 * (20 + 10 + 80) + 2 * 80
    assert plan_memory.activations(model, 30, 2, False) == 30 * (2 * 380 + 80)
    assert plan_memory.activations(model, 30, 2, True) == 30 * (2 * 2 * 10 + 380 + 80)
    # three float32 copies of 3 sequences x 4 tokens x 100; or a tile of 12 x 100 and float32 gradients
    assert plan_memory.logits(model, 3, work, 2, chunked=False, adapters=False) == 3 * 4 * 3 * 4 * 100
    assert (
        plan_memory.logits(model, 3, work, 2, chunked=True, adapters=False) == 12 * 100 * 2 + 4 * 12 * 10 + 4 * 100 * 10
    )
    assert plan_memory.logits(model, 3, work, 2, chunked=True, adapters=True) == 12 * 100 * 2 + 4 * 12 * 10
    # keys and values, 2 layers, width 5, 8 sequences of 10 tokens; 8 x 100 logits twice
    cache = 2 * 2 * 2 * 5 * 8 * 10 + 2 * 4 * 8 * 100
    assert plan_memory.generation(model, DDP, 2, 8, work, 2) == cache
    assert plan_memory.generation(model, ZERO3, 2, 8, work, 2) == cache + 4000
    cluster = Cluster(2, 1.0, 0.5)
    small = planned(model, work, cluster)
    used = small.memory(DDP, True, False, 3)
    stays = 4000 * (2 + 2 + 12 + 2 + 2) + GIB / 2
    assert used.total == stays + max(30 * 840 + used.logits, cache)
    assert small.memory(LORA, True, False, 3).reference == 0
    assert small.memory(ZERO3, True, False, 3).reference == 4000


def test_memory_of_a_colocated_vllm_by_hand() -> None:
    """It fills its share; asleep, that is free while the optimizer works. A server takes nothing of these GPUs."""
    cluster = Cluster(8, 80.0, 0.0)
    ours = planned(cluster=cluster)
    plain = ours.memory(ZERO3, True, True, 16)
    asleep, awake, server = (
        replace(ours, engine=engine).memory(ZERO3, True, True, 16)
        for engine in (ASLEEP, replace(ASLEEP, sleeps=False), SERVER)
    )
    assert (asleep.generation, awake.generation, server.generation) == (24 * GIB, 24 * GIB, 0)
    steps = plain.activations + plain.logits
    stays = plain.total - max(steps, plain.generation, plain.update)
    assert steps > 1 * GIB
    assert asleep.total == stays + max(steps, 24 * GIB)
    assert awake.total == stays + steps + 24 * GIB
    assert server.total == stays + max(steps, plain.update)


def test_room_for_completions_by_hand() -> None:
    """7e9 parameters of 2 bytes, and a token of 28 layers x 512 x 2 (keys, values) x 2 bytes, of 1280 a completion."""
    a_completion = 28 * 512 * 2 * 2 * 1280
    assert plan_memory.room(SEVEN, ASLEEP, WORK, NODE, 2) == int((24 * GIB - 14e9) / a_completion)
    assert plan_memory.room(SEVEN, SERVER, WORK, NODE, 2) == int((2 * 72 * GIB - 14e9) / a_completion)
    assert plan_memory.room(SEVEN, replace(ASLEEP, share=0.1), WORK, NODE, 2) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Time


def test_time_by_hand() -> None:
    model = Decoder("x", Shape(10, 20, 2, 100, 5, tied=False), queries=10, parameters=4000, adapted=300)
    work = Work(16, 6, 4, iterations=1, steps=1, reference=True, rank=2, adapters=False)
    cluster = Cluster(2, 1.0, 0.0, tflops=1e-8, utilisation=0.5, bandwidth=2e4, link=1e4, efficiency=0.5)
    assert cluster.flops == 5000
    assert plan_seconds.training_s(model, DDP, False, work, cluster) == 6 * 4000 * 160 / 10000
    assert plan_seconds.training_s(model, DDP, True, work, cluster) == 8 * 4000 * 160 / 10000
    assert plan_seconds.training_s(model, LORA, False, work, cluster) == 4 * 4000 * 160 / 10000
    assert plan_seconds.scoring_s(model, True, work, cluster) == 2 * 4000 * 160 / 10000
    assert plan_seconds.scoring_s(model, True, replace(work, iterations=2), cluster) == 4 * 4000 * 160 / 10000
    assert plan_seconds.scoring_s(model, False, work, cluster) == 0
    # 8 sequences: 12.8 s of computing a token against (8000 + 2 x 20 x 8 x 8) / 10000 s of reading
    assert plan_seconds.generation_s(model, work, cluster, 2) == pytest.approx(12.8 * 6 + 4 * 12.8)
    fast = replace(cluster, tflops=1.0)
    assert plan_seconds.generation_s(model, work, fast, 2) == pytest.approx(4 * (8000 + 2560) / 10000)
    # 8 sequences, 2 at a time: 4 passes; 4000 parameters x 2 bytes x 1/2 at 5000 a second
    moved = {DDP: 2, ZERO2: 5, ZERO3: 13}
    for strategy, volume in moved.items():
        assert plan_seconds.communication_s(model, strategy, 2, work, cluster, 2) == pytest.approx(volume * 0.8)
    assert plan_seconds.communication_s(model, DDP, 2, work, replace(cluster, gpus=1), 2) == 0


def test_time_of_vllm_by_hand() -> None:
    model = Decoder("x", Shape(10, 20, 2, 100, 5, tied=False), queries=10, parameters=4000, adapted=300)
    work = Work(16, 6, 4, iterations=1, steps=1, reference=True, rank=2, adapters=False)
    cluster = Cluster(2, 8800 / GIB, 0.0, tflops=1.0, utilisation=0.5, bandwidth=2e4, link=1e4, efficiency=0.5)
    # A completion's cache: 2 x 2 layers x 5 wide x 2 bytes x 10 tokens. Weights leave room for 2 of a GPU's 8: 4 times.
    colocated = Engine(server=False, tensor_parallel=1, share=1.0, sleeps=False)
    assert plan_memory.room(model, colocated, work, cluster, 2) == 2
    assert plan_seconds.generation_s(model, work, cluster, 2, colocated) == pytest.approx(4 * 4 * (8000 + 640) / 10000)
    # All 16 on a server of two GPUs, whose memory is read at once: room for 24.
    server = Engine(server=True, tensor_parallel=2, share=1.0, sleeps=False)
    assert plan_seconds.generation_s(model, work, cluster, 2, server) == pytest.approx(4 * (8000 + 16 * 320) / 20000)
    assert plan_seconds.handing_over_s(model, server, cluster, 2) == 8000 / 5000
    assert plan_seconds.handing_over_s(model, colocated, cluster, 2) == 0
    # With room for all, what generates makes no difference to the formula.
    roomy = replace(cluster, memory_gib=1.0)
    assert plan_seconds.generation_s(model, work, roomy, 2, colocated) == plan_seconds.generation_s(
        model, work, roomy, 2
    )


# ---------------------------------------------------------------------------------------------------------------------
# The plan


def planned(model: Decoder = SEVEN, work: Work = WORK, cluster: Cluster = NODE) -> Plan:
    return Plan(model, work, cluster, "mixed", chunked=True)


def test_the_micro_batch_is_the_largest_divisor_that_fits() -> None:
    found = planned().rows()
    assert {row.strategy.name for row in found if row.fits} == {"zero2", "zero3 / fsdp", "lora"}
    for row in found:
        sizes = [size for size in range(1, 65) if 64 % size == 0]
        needs = [planned().memory(row.strategy, row.reference, row.checkpointing, size).total for size in sizes]
        assert needs == sorted(needs)
        fitting = [size for size, need in zip(sizes, needs, strict=True) if need <= 80 * GIB]
        assert (row.micro, row.fits) == ((fitting or [1])[-1], bool(fitting))


def test_the_recommendation_is_the_fastest_that_does_what_is_wanted() -> None:
    rows = planned().rows()
    best = plan_command.recommended(rows, WORK)
    assert best is not None
    assert (best.strategy, best.reference) == (ZERO2, True)
    assert best.seconds == min(r.seconds for r in rows if r.fits and r.reference and not r.strategy.adapters)
    without = plan_command.recommended(rows, replace(WORK, reference=False))
    assert without is not None
    assert not without.reference
    adapters = plan_command.recommended(rows, replace(WORK, adapters=True))
    assert adapters is not None
    assert adapters.strategy == LORA
    # One GPU of 80 GiB holds 7 billion parameters with adapters only.
    small = replace(WORK, sequences=64)
    alone = plan_command.recommended(planned(work=small, cluster=replace(NODE, gpus=1)).rows(), small)
    assert alone is not None
    assert alone.strategy == LORA
    assert plan_command.recommended([], WORK) is None


def test_what_would_fit_fits() -> None:
    tight = planned(cluster=Cluster(8, 12.0, plan_request.default_reserve_gib(12.0)))
    with pytest.raises(InputError) as caught:
        plan_command.require_fit(tight, tight.rows())
    memory_gib = float(caught.value.do.split()[1])
    enough = replace(tight, cluster=Cluster(8, memory_gib, plan_request.default_reserve_gib(memory_gib)))
    assert any(row.fits for row in enough.rows())
    little = replace(tight, cluster=Cluster(8, memory_gib - 1.5, plan_request.default_reserve_gib(memory_gib - 1.5)))
    assert not any(row.fits for row in little.rows())


def test_sleep_is_advised_where_vllm_trains_along_and_is_awake() -> None:
    advice = {}
    for engine in (ASLEEP, replace(ASLEEP, sleeps=False), SERVER):
        tight = replace(planned(cluster=Cluster(8, 48.0, 40.0)), engine=engine)
        with pytest.raises(InputError) as caught:
            plan_command.require_fit(tight, tight.rows())
        advice[engine] = "--enable-sleep-mode" in caught.value.do
    assert list(advice.values()) == [False, True, False]


def test_more_gpus_are_named_where_they_help() -> None:
    alone = planned(cluster=replace(NODE, gpus=1, memory_gib=40.0, reserve_gib=4.7))
    with pytest.raises(InputError, match="--gpus") as caught:
        plan_command.require_fit(alone, alone.rows())
    gpus = int(caught.value.do.split("--gpus ")[1].split(";")[0])
    assert any(row.fits for row in replace(alone, cluster=replace(alone.cluster, gpus=gpus)).rows())


# ---------------------------------------------------------------------------------------------------------------------
# The command

ASK = ["plan", "--model-size", "7e9", "--gpus", "8", "--gpu-memory-gib", "80"]


def test_the_command_reads_params(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--max-completion-length", "2048"]) == 0
    shown = capsys.readouterr().out
    assert "128 completions of 2048 tokens after prompts of 256" in shown  # 8 x 16 of the shipped params
    assert "100 steps" in shown
    assert "\nplan | zero2, with a reference" in shown
    work = plan_command.work_of({"num_generations": 4, "prompt_length": 9}, load_params(PARAMS))
    assert work == Work(32, 9, 80, iterations=1, steps=100, reference=True, rank=16, adapters=False)


def test_the_command_says_what_was_wanted_and_does_not_fit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--gpus", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("plan | lora, with a reference")
    assert shown.endswith("| all weights with a reference, as wanted, do not fit")


def test_vllm_is_that_of_params_or_of_flags(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command.engine_of({}, load_params(PARAMS)) is None
    changes = {"grpo.use_vllm": True, "launch.vllm.enable_sleep_mode": True}
    PARAMS.write_text(overlaid(None, changes))
    assert plan_command.engine_of({}, load_params(PARAMS)) == ASLEEP
    assert plan_command.engine_of({"vllm": "no"}, load_params(PARAMS)) is None
    asked = {"vllm": "server", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.9}
    assert plan_command.engine_of(asked, load_params(PARAMS)) == plan_command.engine_of(asked, None) == SERVER
    assert main(ASK) == 0
    shown = capsys.readouterr().out
    assert "gener. is vLLM's on groups of 1, 0.3 of a GPU: KV cache for" in shown


def test_the_command_without_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Qwen2Config(**TINY).save_pretrained(tmp_path)
    assert main(["plan", "--config", "config.json", "--gpu-memory-gib", "24"]) == 0
    assert "512 completions of 1024 tokens" in capsys.readouterr().out


def test_the_document_shows_what_comes_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (root / "docs/plan.md").read_text().splitlines()
    lines = [line for line in document if line.startswith(("strategy ", "ddp ", "zero", "lora ", "plan | "))]
    monkeypatch.chdir(tmp_path)
    assert main(ASK) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert [line for line in lines if line not in shown] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "7"], "--gpus 4 or 8"),
        (["--gpus", "1024"], "--gpus 512,"),
        (["--gpu-memory-gib", "10"], "at the least"),
        (["--model-size", "1e15"], "--config"),
        (["--vllm", "colocate", "--gpu-memory-utilization", "0.1"], "13.0 GiB for the weights"),
        (["--vllm", "colocate", "--tensor-parallel-size", "3"], "groups of 3 of 8 GPUs"),
        (["--vllm", "colocate", "--gpu-memory-utilization", "0.95"], "do      a smaller --gpu-memory-utilization"),
    ],
)
def test_what_cannot_be_planned_exits_2(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*ASK, *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--gpus", "--gpu-memory-gib", "--model-size", "--tflops"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_numbers_are_positive(flag: str, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*ASK, flag, value])
    assert caught.value.code == 2


def test_a_share_is_at_most_1() -> None:
    with pytest.raises(SystemExit) as caught:
        main([*ASK, "--utilisation", "40"])
    assert caught.value.code == 2


def test_every_flag_changes_the_plan(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*flags: str) -> str:
        main([*ASK, *flags])
        return capsys.readouterr().out

    base = shown()
    changes: Mapping[str, str] = {
        **{"prompts-per-step": "64", "num-generations": "8", "num-iterations": "2", "max-completion-length": "2000"},
        **{"max-steps": "7", "lora-rank": "64", "prompt-length": "99", "reserve-gib": "3", "tflops": "900"},
        **{"utilisation": "0.3", "bandwidth": "3000", "link": "50", "efficiency": "0.9", "precision": "bfloat16"},
    }
    for name, value in changes.items():
        assert shown(f"--{name}", value).split("\n\n")[0] != base.split("\n\n")[0], name
    assert shown("--full-logits") != base
    for flags in (["--enable-sleep-mode"], ["--gpu-memory-utilization", "0.4"], ["--tensor-parallel-size", "2"]):
        assert shown("--vllm", "colocate", *flags) != shown("--vllm", "colocate"), flags


def test_a_servers_gpus_are_paid_for() -> None:
    row = planned().rows()[0]
    with_server = replace(planned(), engine=SERVER)
    assert with_server.hours(row) == pytest.approx(planned().hours(row) * 10 / 8)


def test_it_imports_no_torch(root: Path, tmp_path: Path) -> None:
    code = f"import sys\nfrom posttrain.cli import main\nassert main({ASK}) == 0\nassert 'torch' not in sys.modules"
    environment = {"PYTHONPATH": str(root), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_hours() -> None:
    row = planned().rows()[0]
    assert math.isclose(planned().hours(replace(row, seconds=36.0)), 36 * 500 * 8 / 3600)
