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
from trl.kernels.chunked_logprob import _backward_tile

from posttrain.cli import main, parameters
from posttrain.commands.plan import command, model
from posttrain.commands.plan.machine import DDP, GIB, LORA, OFFLOAD, SOLD_GIB, ZERO2, ZERO3, Machine, Strategy
from posttrain.commands.plan.model import Model
from posttrain.commands.plan.plan import BUCKET, TILE_COPIES, Plan
from posttrain.commands.plan.strategies import plans, recommended
from posttrain.commands.plan.work import Work, grpo_work
from posttrain.errors import InputError
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import publish
from posttrain.params.file import load_params
from posttrain.params.recipes import overlaid
from posttrain.paths import PARAMS, PREPARED
from posttrain.prompts import prompt_messages
from posttrain.templates import render
from posttrain.training.from_scratch import train_tokenizer

SEVEN = model.of_size(7e9)
WORK = Work(32, 16, prompt_length=256, max_completion_length=1024, max_steps=500, lora_rank=16)
NODE = Machine(8, 80.0)
ASLEEP: dict[str, Any] = {"vllm": "colocate", "gpu_memory_utilization": 0.3, "enable_sleep_mode": True}
AWAKE = {**ASLEEP, "enable_sleep_mode": False}
SERVER: dict[str, Any] = {"vllm": "server", "gpu_memory_utilization": 0.9, "tensor_parallel_size": 2}
SMALL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
TINY = {**SMALL, "num_key_value_heads": 2, "vocab_size": 384}


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Qwen2Config(**TINY), Qwen2ForCausalLM),
        (Qwen2Config(**TINY, tie_word_embeddings=True), Qwen2ForCausalLM),
        (Qwen3Config(**TINY, head_dim=32), Qwen3ForCausalLM),
        (LlamaConfig(**TINY), LlamaForCausalLM),
        (LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), LlamaForCausalLM),
    ],
)
def test_the_parameters_of_a_config_are_those_of_the_model(config: Any, kind: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    real = kind(config)
    counted = model.of_file(tmp_path / "config.json")
    assert counted.parameters == sum(p.numel() for p in real.parameters())
    linear = [m for name, m in real.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert counted.adapter == sum(m.in_features + m.out_features for m in linear)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304), ("Qwen2.5-7B", 7_615_616_512)],
)
def test_the_widths_are_those_of_published_models(name: str, parameters: int) -> None:
    assert counted(model.QWEN[name]).parameters == parameters


def counted(config: Mapping[str, Any]) -> Model:
    found = model.from_config(config, "x")
    assert found is not None
    return found


def test_a_size_alone_takes_the_nearest_widths() -> None:
    assert (SEVEN.parameters, SEVEN.hidden, SEVEN.layers) == (7_000_000_000, 3584, 28)
    assert model.of_size(2e9).hidden == 1536
    for size in (1e6, 1e12):
        with pytest.raises(InputError, match="--config"):
            model.of_size(size)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model_type": "mixtral"}', json.dumps({"model_type": "qwen2", "hidden_size": "x"})]
)
def test_a_config_that_cannot_be_counted_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError):
        model.of_file(tmp_path / "config.json")
    with pytest.raises(InputError):
        model.of_file(tmp_path / "missing.json")


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def planned(strategy: Strategy = DDP, work: Work = WORK, machine: Machine = NODE, **changes: Any) -> Plan:
    return replace(Plan(SEVEN, work, machine, strategy), **changes)


def states(plan: Plan) -> tuple[float, float, float]:
    return plan.weights, plan.gradients, plan.optimizer


def test_states_by_hand() -> None:
    p = 7e9
    assert states(planned(DDP)) == (2 * p, 2 * p, 12 * p)
    assert states(planned(ZERO2)) == (2 * p, 2 * p / 8, 12 * p / 8)
    assert states(planned(ZERO3)) == (2 * p / 8, 2 * p / 8, 12 * p / 8)
    assert sum(states(planned(ZERO3))) == p * 16 / 8 == 14e9
    alone = planned(DDP, replace(WORK, precision="float32"), replace(NODE, gpus=1))
    assert states(alone) == (4 * p, 4 * p, 8 * p)
    # 28 layers; q, o: 2 x (3584 + 3584); k, v: 2 x (3584 + 512); gate, up, down: 3 x (3584 + 18944)
    adapter = 16 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert states(planned(LORA)) == (2 * p + 4 * adapter, 4 * adapter, 8 * adapter)


def test_a_figure_of_the_zero_paper() -> None:
    # Figure 1 of arXiv:1910.02054: 7.5 billion parameters, 64 GPUs: 120 GB, 16.6 GB and 1.9 GB.
    asked = {"model": replace(SEVEN, parameters=7_500_000_000), "machine": replace(NODE, gpus=64)}
    total = {strategy.name: sum(states(planned(strategy, **asked))) / 1e9 for strategy in (DDP, ZERO2, ZERO3)}
    assert total["ddp"] == pytest.approx(120.0)
    assert total["zero2"] == pytest.approx(16.6, abs=0.05)
    assert total["zero3 / fsdp"] == pytest.approx(1.9, abs=0.05)


@pytest.mark.parametrize("gpus", [2, 8, 64])
@pytest.mark.filterwarnings("ignore")
def test_states_and_update_are_deepspeeds_own_estimate(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    for kind in (SEVEN, model.of_size(1.5e9)):
        p, largest, machine = kind.parameters, kind.largest_layer, replace(NODE, gpus=gpus)
        second, third = (planned(strategy, model=kind, machine=machine) for strategy in (ZERO2, ZERO3))
        ours = sum(states(second)) + second.update
        assert ours == pytest.approx(zero2(p, gpus, 1, cpu_offload=False)[1], rel=1e-6)
        gathered = 4 * largest
        ours = sum(states(third)) + third.update + gathered
        # 2 + 2 + 12 and 4 of float32 gradients are 20 bytes a parameter, as in theirs of ZeRO-2; of ZeRO-3 it says 18.
        theirs = zero3(p, largest, gpus, 1, cpu_offload=False, cpu_offload_params=False)[1]
        assert ours - theirs == pytest.approx(2 * p / gpus, abs=2)
        assert third.buffers == 2 * 2 * BUCKET + gathered
        offload = planned(OFFLOAD, model=kind, machine=machine)
        assert (
            sum(states(offload)) + gathered == zero3(p, largest, gpus, 1, cpu_offload=True, cpu_offload_params=True)[1]
        )


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
    trained, optimizer = trained_step(config)
    moments = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    weights = bytes_of(trained.parameters()), bytes_of(p.grad for p in trained.parameters()), bytes_of(moments)
    work, alone = replace(WORK, precision="float32"), replace(NODE, gpus=1)
    assert states(planned(DDP, work, alone, model=counted(config.to_dict()))) == weights


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
    small = counted(config.to_dict())
    expected = 4 * 64 * small.activations(dtype.itemsize, checkpointing)
    if checkpointing:  # the layer that is recomputed is there in the backward pass alone
        expected -= 4 * 64 * small.layer_activations(dtype.itemsize)
    assert expected == pytest.approx(real, rel=0.15)


HAND = Model(
    "x", hidden=10, intermediate=20, layers=2, vocab=100, queries=10, key_values=5, parameters=4000, adapter=300
)
HAND_WORK = Work(4, 4, prompt_length=6, max_completion_length=4, max_steps=1, lora_rank=2)


def test_the_rest_of_memory_by_hand() -> None:
    # queries and output 20, keys and values 10, four of 20; two norms of (4 + 2 + 2) x 10
    assert HAND.layer_activations(2) == 2 * (20 + 10 + 80) + 2 * 80
    assert HAND.activations(2, False) == 2 * 380 + 80
    assert HAND.activations(2, True) == 2 * 2 * 10 + 380 + 80
    small = Plan(HAND, HAND_WORK, Machine(2, 1.0, 0.5), DDP, micro_batch=3)
    assert small.activations == 30 * (2 * 380 + 80)
    # three float32 copies of 3 sequences x 4 tokens x 100; or a tile of 12 x 100 and float32 gradients
    assert replace(small, work=replace(HAND_WORK, full_logits=True)).logits == 3 * 4 * 3 * 4 * 100
    assert small.logits == 12 * 100 * 2 + 4 * 12 * 10 + 4 * 100 * 10
    assert replace(small, strategy=LORA).logits == 12 * 100 * 2 + 4 * 12 * 10
    # keys and values, 2 layers, width 5, 8 sequences of 10 tokens; 8 x 100 logits twice
    cache = 2 * 2 * 2 * 5 * 8 * 10 + 2 * 4 * 8 * 100
    assert small.generation == cache
    assert replace(small, strategy=ZERO3).generation == cache + 4000
    stays = 4000 * (2 + 2 + 12 + 2 + 2) + GIB / 2
    assert small.total == stays + max(30 * 840 + small.logits, cache)
    assert replace(small, strategy=LORA).reference == 0
    assert replace(small, strategy=ZERO3).reference == 4000


def resident(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says how much memory was used at most")
def test_copies_of_a_tile_of_logits_are_those_of_trl() -> None:
    tokens, words = 1024, 16384
    tile, rows = torch.randn(tokens, words), torch.zeros(tokens)
    sizes = (0, words, 1.0, 1.0, 1.0, False, True, False, 1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmHWM:")
    _backward_tile(tile, words, rows.long(), rows, rows, rows, None, *sizes)
    assert (resident("VmHWM:") - before) / tile.nbytes == pytest.approx(TILE_COPIES, abs=0.5)
    on_a_cpu = Plan(HAND, HAND_WORK, Machine(1, 1.0, triton=False), DDP, micro_batch=3)
    # 3 sequences x 10 tokens, prompts among them
    assert on_a_cpu.logits == 30 * 100 * (2 + 7 * 4) + 4 * 30 * 10 + 4 * 100 * 10


def test_sharded_adapters_by_hand() -> None:
    """600 parameters of rank 2 train; ZeRO-3 gathers all 4000, which are frozen, three times a pass."""
    machine = Machine(2, 1.0, link=1e4, efficiency=0.5)
    second, third = (Plan(HAND, HAND_WORK, machine, replace(s, adapters=True), micro_batch=2) for s in (ZERO2, ZERO3))
    assert states(second) == (8000 + 2400, 2400 / 2, 4800 / 2)
    assert states(third) == ((8000 + 2400) / 2, 2400 / 2, 4800 / 2)
    assert (second.buffers, second.update, third.update) == (2 * 4 * 600, 0, 0)
    assert second.communication_s == pytest.approx((4 + 1) * 600 * 2 / 2 / 5000)
    assert third.communication_s == pytest.approx((3 * 4 + 1) * 4000 * 2 / 2 / 5000)


def test_sft_generates_nothing() -> None:
    given = Plan(HAND, replace(HAND_WORK, generates=False), Machine(2, 1.0, 0.5), ZERO3)
    assert (given.generation, given.generation_s) == (0, 0)


def test_memory_of_a_colocated_vllm_by_hand() -> None:
    """It fills its share; asleep, that is free while the optimizer works. A server takes nothing of these GPUs."""
    plain = planned(ZERO3, machine=Machine(8, 80.0, 0.0), recompute=True, micro_batch=16)
    asleep, awake, server = (replace(plain, work=replace(WORK, **vllm)) for vllm in (ASLEEP, AWAKE, SERVER))
    assert (asleep.generation, awake.generation, server.generation) == (24 * GIB, 24 * GIB, 0)
    steps = plain.activations + plain.logits
    stays = plain.total - max(steps, plain.generation, plain.update)
    assert steps > 1 * GIB
    assert asleep.total == stays + max(steps, 24 * GIB)
    assert awake.total == stays + steps + 24 * GIB
    assert server.total == stays + max(steps, plain.update)


def test_completions_in_the_kv_cache_by_hand() -> None:
    """7e9 parameters of 2 bytes, and a token of 28 layers x 512 x 2 (keys, values) x 2 bytes, of 1280 a completion."""
    a_completion = 28 * 512 * 2 * 2 * 1280
    found = [planned(work=replace(WORK, **vllm)).kv_cache_completions for vllm in (ASLEEP, SERVER)]
    assert found == [int((24 * GIB - 14e9) / a_completion), int((2 * 72 * GIB - 14e9) / a_completion)]
    assert planned(work=replace(WORK, **{**ASLEEP, "gpu_memory_utilization": 0.1})).kv_cache_completions == 0


# ---------------------------------------------------------------------------------------------------------------------
# Time


def test_time_by_hand() -> None:
    machine = Machine(2, 1.0, 0.0, tflops=1e-8, utilisation=0.5, bandwidth=2e4, link=1e4, efficiency=0.5)
    plan = Plan(HAND, HAND_WORK, machine, DDP, micro_batch=2)
    assert machine.flops == 5000
    assert plan.training_s == 6 * 4000 * 160 / 10000
    assert replace(plan, recompute=True).training_s == 8 * 4000 * 160 / 10000
    assert replace(plan, strategy=LORA).training_s == 4 * 4000 * 160 / 10000
    assert plan.scoring_s == 2 * 4000 * 160 / 10000
    assert replace(plan, work=replace(HAND_WORK, num_iterations=2)).scoring_s == 4 * 4000 * 160 / 10000
    assert replace(plan, work=replace(HAND_WORK, reference=False)).scoring_s == 0
    # 8 sequences: 12.8 s of computing a token against (8000 + 2 x 20 x 8 x 8) / 10000 s of reading
    assert plan.generation_s == pytest.approx(12.8 * 6 + 4 * 12.8)
    fast = replace(plan, machine=replace(machine, tflops=1.0))
    assert fast.generation_s == pytest.approx(4 * (8000 + 2560) / 10000)
    # 8 sequences, 2 at a time: 4 passes; 4000 parameters x 2 bytes x 1/2 at 5000 a second
    moved = {DDP: 2, ZERO2: 5, ZERO3: 13}
    for strategy, volume in moved.items():
        assert replace(plan, strategy=strategy).communication_s == pytest.approx(volume * 0.8)
    assert replace(plan, machine=replace(machine, gpus=1)).communication_s == 0
    whole = plan.generation_s + plan.scoring_s + plan.training_s + plan.communication_s
    assert plan.step_s == pytest.approx(whole)
    twice = replace(plan, work=replace(HAND_WORK, num_iterations=2))
    assert twice.step_s == pytest.approx(whole - (plan.generation_s + plan.scoring_s) + (51.2 + 76.8 + 256) / 2)


def test_pythons_own_time_by_hand() -> None:
    """2 s a forward pass and 1 a layer: 4 for two layers; 8 sequences, 2 at a time, are 4 passes."""
    machine = Machine(2, 1.0, 0.0, tflops=1e-8, utilisation=0.5, bandwidth=2e4, link=1e4, efficiency=0.5)
    plain = Plan(HAND, HAND_WORK, machine, DDP, micro_batch=2)
    slow = replace(plain, machine=replace(machine, pass_s=2.0, layer_s=1.0))
    assert slow.training_s - plain.training_s == pytest.approx(4 * 3 * 4)
    assert slow.scoring_s - plain.scoring_s == pytest.approx(4 * 4)
    assert slow.generation_s - plain.generation_s == pytest.approx(4 * 4)  # a pass for each of 4 tokens
    engine = replace(HAND_WORK, vllm="colocate", gpu_memory_utilization=1.0)
    assert replace(slow, work=engine).generation_s == replace(plain, work=engine).generation_s
    slow, plain = (replace(plan, recompute=True) for plan in (slow, plain))
    assert slow.training_s - plain.training_s == pytest.approx(4 * 4 * 4)


def test_time_of_vllm_by_hand() -> None:
    machine = Machine(2, 8800 / GIB, 0.0, tflops=1.0, utilisation=0.5, bandwidth=2e4, link=1e4, efficiency=0.5)
    plain = Plan(HAND, HAND_WORK, machine, DDP)
    # A completion's cache: 2 x 2 layers x 5 wide x 2 bytes x 10 tokens. Weights leave 2 of a GPU's 8 of it: 4 times.
    colocated = replace(plain, work=replace(HAND_WORK, vllm="colocate", gpu_memory_utilization=1.0))
    assert colocated.kv_cache_completions == 2
    assert colocated.generation_s == pytest.approx(4 * 4 * (8000 + 640) / 10000)
    # All 16 on a server of two GPUs, whose memory is read at once: enough for 24. It is sent 8000 bytes first.
    server = replace(plain, work=replace(HAND_WORK, vllm="server", gpu_memory_utilization=1.0, tensor_parallel_size=2))
    assert server.generation_s == pytest.approx(4 * (8000 + 16 * 320) / 20000 + 8000 / 5000)
    # With memory for all, what generates makes no difference to the formula.
    large = replace(machine, memory_gib=1.0)
    assert replace(colocated, machine=large).generation_s == replace(plain, machine=large).generation_s


# ---------------------------------------------------------------------------------------------------------------------
# The plan


def rows(work: Work = WORK, machine: Machine = NODE) -> list[Plan]:
    return plans(SEVEN, work, machine)


def test_the_micro_batch_is_the_largest_divisor_that_fits() -> None:
    found = rows()
    assert {row.strategy.name for row in found if row.fits} == {"zero2", "zero3 / fsdp", "lora", "lora, zero3"}
    for row in found:
        sizes = [size for size in range(1, 65) if 64 % size == 0]
        needs = [replace(row, micro_batch=size).total for size in sizes]
        assert needs == sorted(needs)
        fitting = [size for size, need in zip(sizes, needs, strict=True) if need <= 80 * GIB]
        assert (row.micro_batch, row.fits) == ((fitting or [1])[-1], bool(fitting))


def test_the_recommendation_is_the_fastest_that_does_what_is_wanted() -> None:
    found = rows()
    best = recommended(found, WORK)
    assert best is not None
    assert (best.strategy, best.work.reference) == (ZERO2, True)
    assert best.step_s == min(r.step_s for r in found if r.fits and r.work.reference and not r.strategy.adapters)
    without = recommended(found, replace(WORK, reference=False))
    assert without is not None
    assert not without.work.reference
    adapters = recommended(found, replace(WORK, adapters=True))
    assert adapters is not None
    assert adapters.strategy == LORA
    # One GPU of 80 GiB holds 7 billion parameters with adapters only.
    small = replace(WORK, prompts_per_step=4)
    alone = recommended(rows(small, replace(NODE, gpus=1)), small)
    assert alone is not None
    assert alone.strategy == LORA
    assert recommended([], WORK) is None


def advice(size: float, work: Work, machine: Machine) -> list[str]:
    """The remedies, a line each, without the last, which names none."""
    with pytest.raises(InputError) as caught:
        command.require_fit(plans(model.of_size(size), work, machine), work)
    return [line.strip() for line in caught.value.do.splitlines()[:-1]]


def asked_again(line: str, size: float, work: Work) -> list[Plan]:
    """The plan of the flags that a line advises."""
    words = line.partition(": --")[2].partition(";")[0].replace("--", "").split()
    flags = dict(zip(words[::2], words[1::2], strict=True))
    if "vllm" in flags:
        shared = int(flags["tensor-parallel-size"])
        work = replace(work, vllm="server", tensor_parallel_size=shared, gpu_memory_utilization=0.9)
    machine = Machine(int(flags["gpus"]), float(flags["gpu-memory-gib"]))
    command.require_vllm_memory(Plan(model.of_size(size), work, machine, DDP))
    return plans(model.of_size(size), work, machine)


@pytest.mark.parametrize(("size", "gpus", "memory_gib"), [(7e9, 1, 24), (14e9, 2, 24), (70e9, 8, 80), (120e9, 8, 80)])
@pytest.mark.parametrize("reference", [True, False])
def test_what_is_advised_fits_on_gpus_that_there_are(
    size: float, gpus: int, memory_gib: float, reference: bool
) -> None:
    work = replace(WORK, reference=reference)
    lines = advice(size, work, Machine(gpus, memory_gib))
    *advised, offload = lines
    for line in advised:
        strategy = line.partition(" (")[2].partition("):")[0]
        fitting = [plan for plan in asked_again(line, size, work) if plan.fits and plan.work.reference == reference]
        assert strategy in {plan.strategy.name for plan in fitting}, line
        many, _, gib = line.split()[:3]
        assert float(gib) in (memory_gib, *SOLD_GIB)
        assert line.split(": ")[1].startswith(f"--gpus {many} --gpu-memory-gib {gib}")
    assert {line.startswith(f"{gpus} x ") for line in advised} == {True, False}  # larger ones, and more of them
    assert "(zero3, launch.offload: all)" in offload


def test_the_smallest_gpu_that_does_is_advised() -> None:
    """8 of 192 GiB hold 70 billion parameters with adapters, 8 of 141 do not."""
    (line,) = [line for line in advice(70e9, WORK, NODE) if line.startswith("8 x ") and "vLLM" not in line]
    assert line == "8 x 192 GiB (lora): --gpus 8 --gpu-memory-gib 192"
    seventy = model.of_size(70e9)
    fits = [any(plan.fits for plan in plans(seventy, WORK, Machine(8, gib))) for gib in (80, 96, 141, 192)]
    assert fits == [False, False, False, True]


def test_a_reserve_that_was_asked_for_is_kept_in_what_would_fit() -> None:
    first = [lines[0].split()[2] for lines in (advice(7e9, WORK, Machine(8, 12.0, r)) for r in (None, 30.0))]
    assert first == ["40", "80"]


def test_sharded_in_the_machines_memory_by_hand() -> None:
    """Nothing stays on the GPU but ZeRO-3's buckets and largest layer; on the machine 16 bytes a parameter, the
    reference's 2 and 4 of gradients in float32."""
    plain, offload = planned(ZERO3), planned(OFFLOAD)
    assert (states(offload), offload.reference, offload.update) == ((0, 0, 0), 0, 0)
    assert (offload.buffers, offload.generation) == (plain.buffers, plain.generation)
    assert offload.offloaded == pytest.approx(7e9 * (16 + 2 + 4))
    assert plain.offloaded == 0
    assert planned(OFFLOAD, machine=replace(NODE, gpus=1)).buffers == plain.buffers


def test_sleep_is_advised_where_vllm_trains_along_and_is_awake() -> None:
    works = [replace(WORK, **vllm) for vllm in (ASLEEP, AWAKE, SERVER)]
    said = [advice(7e9, work, Machine(8, 48.0, 46.0)) for work in works]
    assert [any("--enable-sleep-mode" in line for line in lines) for lines in said] == [False, True, False]


@pytest.mark.parametrize(
    ("written", "meant"), [("7B", 7e9), ("1.5b", 1.5e9), ("135M", 135e6), ("7e9", 7e9), ("1T", 1e12)]
)
def test_parameters_are_written_as_people_do(written: str, meant: float) -> None:
    assert parameters(written) == pytest.approx(meant)


def test_the_lengths_of_a_toy_are_not_planned_by(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ASK) == 0
    shown = capsys.readouterr().out
    assert "512 completions of 1024 tokens after prompts of 256" in shown
    assert "params.yaml is of a model from scratch" in shown


def test_prompts_are_as_long_as_those_of_the_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PARAMS.write_text(overlaid(None, {"model.name_or_path": "models/base/own"}))
    assert main(ASK) == 0
    assert "prompts: a default; `posttrain prepare` makes data/prepared" in capsys.readouterr().out
    problems = [f"Solve: {'2x + ' * n}1 = 7" for n in (1, 3, 20)]
    prepared(problems)
    assert main(ASK) == 0
    assert "prompts: a default; models/base/own is not on this machine" in capsys.readouterr().out
    tokenizer = train_tokenizer(problems, 384)
    Qwen2Config(**TINY).save_pretrained("models/base/own")
    tokenizer.save_pretrained("models/base/own")
    counted = [len(tokenizer(render(tokenizer, prompt_messages(one, None))).input_ids) for one in problems]
    assert main(ASK) == 0
    shown = capsys.readouterr().out
    assert f"128 completions of 80 tokens after prompts of {counted[-1]}, " in shown
    assert f"prompts: the longest of 3 in data/prepared, half have {counted[1]} or fewer; 3 solutions there" in shown
    assert main([*ASK, "--prompt-length", "300"]) == 0
    assert "after prompts of 300," in capsys.readouterr().out
    PARAMS.write_text(overlaid(None, {"model.name_or_path": "models/base/own", "prepare.test_frac": 0.5}))
    assert main(ASK) == 0
    assert "prompts: a default; data/prepared was made with prepare.test_frac 0.2, now 0.5" in capsys.readouterr().out


def prepared(problems: list[str]) -> None:
    """data/prepared of the params that are here."""
    made = Path("made")
    made.mkdir()
    rows = [{"id": str(n), "problem": text, "answer": "x = 3"} for n, text in enumerate(problems)]
    traces = [{**row, "completion": "<think>\n2x = 6\n</think>\n<answer>\nx = 3\n</answer>"} for row in rows]
    for name, lines in {"train": rows, "sft": traces, "test": rows}.items():
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    publish(made, PREPARED, Origin("prepare", load_params(PARAMS)).record)


# ---------------------------------------------------------------------------------------------------------------------
# The command

ASK = ["plan", "--model-size", "7B", "--gpus", "8", "--gpu-memory-gib", "80"]


def test_the_command_reads_params(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = PARAMS.read_text().replace("name_or_path: scratch", "name_or_path: models/base/own")
    PARAMS.write_text(own)
    assert main([*ASK, "--max-completion-length", "2048"]) == 0
    shown = capsys.readouterr().out
    assert "128 completions of 2048 tokens after prompts of 256" in shown  # 8 x 16 of the shipped params
    assert "100 steps" in shown
    assert "\nplan | zero2, with a reference" in shown
    work = grpo_work({"num_generations": 4, "prompt_length": 9}, load_params(PARAMS))
    assert work == Work(8, 4, 1, 9, max_completion_length=80, max_steps=100, lora_rank=16)
    assert (work.sequences, work.length, work.reference, work.adapters) == (32, 89, True, False)


def test_the_command_says_what_was_wanted_and_does_not_fit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "--gpus", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("plan | lora, with a reference")
    assert shown.endswith("| all weights with a reference, as wanted, do not fit")


def vllm_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    work = grpo_work(flags, load_params(PARAMS))
    names = ("vllm", "tensor_parallel_size", "gpu_memory_utilization", "enable_sleep_mode")
    return {name: getattr(work, name) for name in (names if work.vllm != "no" else names[:1])}


def test_vllm_is_that_of_params_or_of_flags(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vllm_of({}) == {"vllm": "no"}
    changes = {"grpo.use_vllm": True, "launch.vllm.enable_sleep_mode": True, "model.name_or_path": "models/base/own"}
    PARAMS.write_text(overlaid(None, changes))
    assert vllm_of({}) == ASLEEP | {"tensor_parallel_size": 1}
    assert vllm_of({"vllm": "no"}) == {"vllm": "no"}
    asked = {"vllm": "server", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.9}
    assert grpo_work(asked, None).gpu_memory_utilization == grpo_work({"vllm": "server"}, None).gpu_memory_utilization
    for params in (load_params(PARAMS), None):
        work = grpo_work(asked, params)
        assert (work.vllm, work.tensor_parallel_size, work.gpu_memory_utilization) == ("server", 2, 0.9)
        assert not work.vllm_beside_training
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
    lines = [line for line in document if line.startswith(("strategy ", "ddp ", "zero", "lora", "plan | "))]
    monkeypatch.chdir(tmp_path)
    assert main(ASK) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert [line for line in lines if line not in shown] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "7"], "--gpus 4 or 8"),
        (["--gpus", "1024"], "--gpus 512,"),
        (["--gpu-memory-gib", "10"], "8 x 24 GiB (lora): --gpus 8"),
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
    plain = planned()
    server = replace(plain, work=replace(WORK, **SERVER))
    assert server.gpu_hours / server.step_s == pytest.approx(plain.gpu_hours / plain.step_s * 10 / 8)


def test_it_imports_no_torch(root: Path, tmp_path: Path) -> None:
    code = "import sys\nimport posttrain.commands.check.resources\nfrom posttrain.cli import main\n"
    code += f"assert main({ASK}) == 0\nassert 'torch' not in sys.modules"
    environment = {"PYTHONPATH": str(root), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_hours() -> None:
    assert math.isclose(planned().gpu_hours, planned().step_s * 500 * 8 / 3600)
