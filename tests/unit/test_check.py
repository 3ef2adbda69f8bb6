"""The preflight: every rule speaks where it should and is silent elsewhere; the tutorial's pitfalls by name."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import pytest
import torch
from peft import get_peft_model
from tokenizers import AddedToken
from transformers import AutoTokenizer, Qwen2Tokenizer

from posttrain.cli import main
from posttrain.commands.check import checks as check
from posttrain.commands.check import data, machine, models, optimizer, resources, rules, scores, speed, tokens
from posttrain.commands.check.resources import PROCESS_GIB, check_resources, memory_and_time
from posttrain.commands.check.rules import Finding
from posttrain.commands.plan.machine import DDP, GIB, ZERO3, Machine
from posttrain.commands.plan.model import Model, from_config
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.table import duration
from posttrain.commands.plan.work import Work
from posttrain.errors import InputError
from posttrain.launch.layout import layout
from posttrain.outputs.facts import versions
from posttrain.outputs.manifest import publish
from posttrain.params.file import load_params
from posttrain.params.recipes import apply_recipe
from posttrain.params.schema import Params
from posttrain.paths import PARAMS, PREPARED, SFT_MODEL
from posttrain.prompts import TAGS
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.lora import adapter_config
from posttrain.training.models import align_special_tokens
from posttrain.training.pretrained import load_tokenizer
from tests.conftest import ParamsWith
from tests.templates import TEMPLATES, save

ROOT = Path(__file__).parents[2]
TRACES = [f"<think>\nx = {x}\n</think>\n<answer>\nx = {x}\n</answer>" for x in range(2, 10)]

PITFALLS = [
    ("too few generations per prompt", {"grpo.num_generations": 4}),
    ("learning rate too high", {"grpo.learning_rate": 4.0e-3}),
    ("ignoring KL divergence", {"grpo.beta": 0.0}),
    ("imbalanced reward weights", {"rewards.format.weight": 5.0}),
    ("not monitoring advantage statistics", {"grpo.logging_steps": 50}),
    ("not monitoring advantage statistics", {"grpo.health.low_advantage_std.action": "off"}),
]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


# ---------------------------------------------------------------------------------------------------------------------
# Rules of params alone


@pytest.mark.parametrize(("name", "changes"), PITFALLS)
def test_the_tutorials_pitfalls_are_caught_by_name(
    name: str, changes: dict[str, Any], project: Path, params_with: ParamsWith
) -> None:
    found = check.findings(params_with(changes), "grpo")
    assert [finding.name for finding in found if finding.level in ("warn", "fault")] == [name]
    finding = by_name(found)[name]
    assert finding.level == "warn"  # it may be meant
    assert finding.why.endswith(".")
    assert finding.do.endswith(".")
    assert all(finding.level in ("ok", "later") for finding in check.findings(params_with({}), "grpo"))


def test_pitfalls_begin_at_their_edges() -> None:
    assert [rules.few_generations(n).level for n in (7, 8)] == ["warn", "ok"]
    assert [rules.high_learning_rate(rate, 1e-5).level for rate in (9e-6, 1e-5, 2e-5)] == ["ok", "warn", "warn"]
    assert [rules.no_kl(beta).level for beta in (0, 0.001)] == ["warn", "ok"]
    weights = [{"accuracy": 1.0, "format": weight} for weight in (0.1, 1.0, 1.1)]
    assert [rules.imbalanced_weights(w).level for w in weights] == ["ok", "ok", "warn"]
    assert rules.imbalanced_weights({"format": 1.0}).saw == "format 1"
    assert rules.imbalanced_weights({"format": 1.0}).level == "warn"


@pytest.mark.parametrize(
    ("prompts", "generations", "micro", "processes", "level", "saw"),
    [
        (8, 16, 128, 1, "ok", "128 sequences in 1 passes of 128"),
        (8, 16, 60, 1, "ok", "128 sequences in 4 passes of 32"),
        (1, 31, 16, 1, "warn", "31 sequences in 31 passes of 1"),  # 31 is prime
        (2, 4, 64, 1, "ok", "8 sequences in 1 passes of 8"),
        (12, 8, 64, 5, "fault", "12 x 8 = 96 sequences over 5 processes"),
        (10, 8, 64, 5, "ok", "16 sequences in 1 passes of 16"),
    ],
)
def test_batches(prompts: int, generations: int, micro: int, processes: int, level: str, saw: str) -> None:
    finding = rules.batches(
        "grpo", "grpo.prompts_per_step x grpo.num_generations", prompts, generations, micro, processes
    )
    assert (finding.level, finding.saw) == (level, saw)
    if level == "fault":
        assert finding.do == "Use 10 or 15 of grpo.prompts_per_step, or 4 or 6 processes."


@pytest.mark.parametrize(
    ("dtype", "mixed", "strategy", "lora", "rate", "level"),
    [
        ("bfloat16", None, "zero2", False, 1e-3, "fault"),  # DeepSpeed refuses it
        ("bfloat16", None, "zero3", False, 1e-3, "fault"),
        ("bfloat16", None, "zero3", True, 1e-3, "fault"),
        ("bfloat16", "bf16", "zero3", False, 1e-6, "ok"),
        ("bfloat16", "bf16", "fsdp", False, 1e-6, "ok"),
        ("bfloat16", None, "fsdp", False, 1e-6, "fault"),
        ("bfloat16", "bf16", "single", False, 1e-6, "fault"),  # autocast keeps no copy
        ("bfloat16", "bf16", "ddp", False, 1e-6, "fault"),
        ("bfloat16", None, "single", False, 3.9e-5, "fault"),
        ("bfloat16", None, "single", False, 4e-5, "warn"),
        ("bfloat16", None, "single", False, 1e-2, "warn"),
        ("bfloat16", None, "single", True, 1e-6, "ok"),
        ("float32", None, "single", False, 1e-9, "ok"),
        ("float32", None, "zero3", False, 1e-9, "ok"),
    ],
)
def test_updates_need_weights_that_can_hold_them(
    dtype: str, mixed: str | None, strategy: str, lora: bool, rate: float, level: str
) -> None:
    assert optimizer.precision("sft", rate, dtype, mixed, strategy, lora).level == level


def test_adapters_of_bfloat16_weights_are_float32(params_with: ParamsWith) -> None:
    lora = {"r": 2, "alpha": 2, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": False}
    params = params_with({"model.lora": lora})
    model = random_model(params.model.scratch, train_tokenizer(TRACES, 384)).to(torch.bfloat16)
    adapted = get_peft_model(model, adapter_config(params))
    assert {value.dtype for value in adapted.parameters() if value.requires_grad} == {torch.float32}


def test_a_warm_up_ends_within_the_run() -> None:
    assert optimizer.warmup("sft", 9, 10).level == "ok"
    assert optimizer.warmup("sft", 10, 10).level == "warn"


def test_a_rollback_needs_an_optimizer_without_weights_of_its_own() -> None:
    actions = {"kl_divergence": "rollback", "truncation": "warn"}
    levels = [optimizer.rollbacks(actions, strategy).level for strategy in ("single", "ddp", "zero2", "zero3", "fsdp")]
    assert levels == ["ok", "ok", "fault", "fault", "fault"]
    assert optimizer.rollbacks({"kl_divergence": "stop"}, "zero3").level == "ok"


def test_a_step_needs_as_many_problems_as_it_has_prompts() -> None:
    assert rules.enough_problems(8, 8).level == "ok"
    assert rules.enough_problems(8, 7).level == "fault"


def test_prompt_and_completion_have_to_fit_into_the_context() -> None:
    assert rules.context("grpo", "grpo.max_completion_length", 29, 80, 109).level == "ok"
    finding = rules.context("grpo", "grpo.max_completion_length", 29, 80, 108)
    assert (finding.level, finding.do) == ("fault", "Use 79 at most.")
    assert rules.context("grpo", "grpo.max_completion_length", 29, 80, None).level == "ok"
    assert rules.context("grpo", "grpo.max_completion_length", 300, 80, 256).do.startswith("Drop such prompts")


def test_lengths_of_traces() -> None:
    lengths = list(range(1, 101))
    assert rules.trace_lengths(lengths, 100, 100).level == "ok"
    assert rules.trace_lengths(lengths, 95, 100).level == "ok"  # 5 %
    assert rules.trace_lengths(lengths, 94, 100).do == "Use 99, which keeps 99 %."
    assert rules.trace_lengths(lengths, 100, 99).level == "warn"
    assert rules.trace_lengths(lengths, 0, 100).level == "fault"
    assert rules.completion_lengths("grpo", lengths, "x", 95).level == "ok"
    assert rules.completion_lengths("grpo", lengths, "x", 94).do == "Use 99 at least."
    assert rules.quantile([5, 1, 3], 0.5) == 3


def test_golds() -> None:
    assert scores.golds(9, [], 0, 9).level == "ok"
    assert scores.golds(9, ["?!"], 0, 9).level == "fault"
    assert scores.golds(95, [], 5, 95).level == "ok"
    assert scores.golds(94, [], 6, 94).level == "warn"


def test_golds_that_traces_meet_by_chance_only_are_named() -> None:
    # Chance is 10 of 100; two standard errors over 25 traces are 2 sqrt(0.1 x 0.9 / 25) = 0.12.
    others = [True] * 10 + [False] * 90
    assert scores.golds_of_their_problems([True] * 6 + [False] * 19, others).level == "ok"  # 0.24
    found = scores.golds_of_their_problems([True] * 5 + [False] * 20, others)  # 0.2
    assert found.level == "warn"
    assert found.saw == "20.0% of 25 traces agree with the gold of their problem, 10.0% with others'"
    # Hard problems: next to nothing is right, but nothing is right by chance either.
    assert scores.golds_of_their_problems([True] + [False] * 24, [False] * 100).level == "ok"
    assert scores.golds_of_their_problems([True] * 25, [True, False] * 50).level == "ok"  # yes or no


def test_the_dry_run_names_constant_rewards_and_wrong_ones() -> None:
    weights = {"accuracy": 1.0, "format": 0.1}
    right: dict[str, list[float | None]] = {"accuracy": [1.0, 1.0], "format": [1.0, 1.0]}
    wrong: dict[str, list[float | None]] = {"accuracy": [0.0, 0.0], "format": [0.0, 1.0]}
    traces: dict[str, list[float | None]] = {"accuracy": [1.0, 0.0, None], "format": [1.0, 1.0, 1.0]}
    found = scores.dry_run(right, wrong, traces, weights)
    assert levels(found) == {"ok"}
    assert by_name(found)["reward accuracy"].saw == "0 to 1, 0.5 on average over 3 traces"

    flat = scores.dry_run(right, {**wrong, "format": [1.0, 1.0]}, traces, weights)
    assert by_name(flat)["reward format"].level == "warn"
    assert by_name(flat)["reward format"].saw.startswith("constant: 1 to 1")
    measured = scores.dry_run(right, {**wrong, "format": [1.0, 1.0]}, traces, {"accuracy": 1.0, "format": 0.0})
    assert by_name(measured)["reward format"].level == "ok"  # nothing is trained on it

    missed = scores.dry_run({**right, "accuracy": [1.0, 0.0]}, wrong, traces, weights)
    assert by_name(missed)["right and wrong answers"].saw == "1 of 2 golds do not score 1 as an answer"
    given = scores.dry_run(right, {**wrong, "accuracy": [0.0, 1.0]}, traces, weights)
    assert by_name(given)["right and wrong answers"].level == "fault"
    hopeless = scores.dry_run(right, wrong, {**traces, "accuracy": [0.0, 0.0, 0.0]}, weights)
    assert by_name(hopeless)["right and wrong answers"].saw == "none of 3 traces is right"


def test_parameters_are_counted_as_they_are(params_with: ParamsWith) -> None:
    scratch = params_with({}).model.scratch
    tokenizer = train_tokenizer(TRACES, scratch.vocab_size)
    model = random_model(scratch, tokenizer)
    before_it_is_made = {**check.Workspace(params_with({})).config("sft"), "vocab_size": len(tokenizer)}
    for config in (model.config.to_dict(), before_it_is_made):
        counted = from_config(config, "x")
        assert counted is not None
        assert counted.parameters == model.num_parameters()


def test_another_kind_of_model_is_counted_by_its_widths() -> None:
    config = {"hidden_size": 10, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = from_config({"model_type": "olmo2", **config, "vocab_size": 100, "tie_word_embeddings": True}, "x")
    # 100 x 10, and 2 layers of 2 x 10 x 10 + 2 x 10 x 10 + 3 x 10 x 20, with two norms of 10; and a last norm
    assert model is not None
    assert model.parameters == 1000 + 2 * (200 + 200 + 600 + 20) + 10
    assert from_config({"n_embd": 64}, "x") is None
    assert from_config({**config, "vocab_size": None}, "x") is None


def test_memory_and_time_by_hand(project: Path, params_with: ParamsWith) -> None:
    model = Model("x", 10, 20, 2, 100, queries=10, key_values=10, parameters=3000, adapter=1)
    # 1200 operations a second at 40 %: 480; 4 ms a forward pass
    machine = Machine(1, 1.0, PROCESS_GIB, 1.2e-9, bandwidth=math.inf, triton=False, pass_s=0.002, layer_s=0.001)
    params = params_with({"sft.batch_size": 8, "sft.max_length": 50})
    sft = Plan(model, resources.stage_work("sft", check.Workspace(params)), machine, DDP, micro_batch=4)
    layer = 4 * (20 + 20 + 80) + 2 * 10 * (4 + 8)
    tokens = 4 * 50
    logits = tokens * 100 * 4 * 8 + 4 * tokens * 10 + 4 * 100 * 10  # a tile and seven copies, and two gradients
    assert sft.total == pytest.approx(PROCESS_GIB * GIB + 3000 * 4 * 4 + tokens * (2 * layer + 120) + logits)
    assert sft.step_s == pytest.approx(6 * 3000 * 8 * 50 / 480 + 2 * 3 * 0.004)
    params = params_with({"grpo.prompts_per_step": 2, "grpo.num_generations": 2, "grpo.max_completion_length": 5})
    work = replace(resources.stage_work("grpo", check.Workspace(params)), prompt_length=7)
    grpo = Plan(model, work, machine, DDP, micro_batch=4)
    decode = 7 * 2 * 3000 * 4 / 480 + 5 * (2 * 3000 * 4 / 480 + 0.004)
    scoring, update = 2 * 3000 * 4 * 12 / 480 + 0.004, 6 * 3000 * 4 * 12 / 480 + 3 * 0.004
    assert grpo.step_s == pytest.approx(decode + scoring + update)
    logits = 48 * 100 * 4 * 8 + 4 * 48 * 10 + 4 * 100 * 10
    assert grpo.total == pytest.approx(PROCESS_GIB * GIB + 3000 * 4 * 5 + 48 * (2 * layer + 120) + logits)
    need_gib = grpo.total / GIB
    assert memory_and_time("x", grpo, grpo, need_gib - 0.01, "x").level == "warn"
    assert memory_and_time("x", grpo, grpo, need_gib, "x").level == "ok"
    seconds = duration(resources.START_S + grpo.work.max_steps * grpo.step_s)
    assert (
        memory_and_time("x", grpo, grpo, 2.0, "a").saw == f"about {need_gib:.1f} of 2.0 GiB free on a, about {seconds}"
    )
    assert [duration(s) for s in (119, 600, 7200)] == ["119 s", "10 min", "2 h"]


def test_time_is_that_of_sequences_as_long_as_the_traces(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    work = check.Workspace(params_with({"sft.max_length": 128, "grpo.max_completion_length": 60}))
    sft, grpo = (resources.stage_work(stage, work) for stage in ("sft", "grpo"))
    lengths = work.trace_lengths("sft")
    whole, said = mean(min(whole, 128) for whole, _ in lengths), mean(min(trace, 60) for _, trace in lengths)
    assert resources.usual_work("sft", work, sft) == replace(sft, max_completion_length=round(whole))
    prompt = round(mean(whole - trace for whole, trace in lengths))
    usual = replace(grpo, prompt_length=prompt, max_completion_length=round(said))
    assert resources.usual_work("grpo", work, grpo) == usual


@pytest.mark.parametrize(("generations", "micro_batch", "tokens"), [(8, 4, 8), (8, 16, 4), (1, 16, 29)])
def test_a_prompt_counts_once_for_its_completions_of_a_pass(generations: int, micro_batch: int, tokens: int) -> None:
    model = Model("x", 10, 20, 2, 100, queries=10, key_values=10, parameters=3000, adapter=1)
    work = Work(num_generations=generations, prompt_length=29)
    plan = Plan(model, work, Machine(1, 1.0), DDP, micro_batch=micro_batch)
    assert resources.sharing_prompts(plan).work == replace(work, prompt_length=tokens)


LORA = {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": "all-linear", "quantize_4bit": False}


@pytest.mark.parametrize(
    ("changes", "config", "shares"),
    [
        ({}, {}, True),
        ({"model.lora": LORA | {"dropout": 0.0}}, {}, True),
        ({"model.lora": LORA}, {}, False),
        ({"launch.activation_checkpointing": True}, {}, False),
        ({"launch.strategy": "fsdp"}, {}, False),
        ({}, {"attention_dropout": 0.1}, False),
        ({}, {"model_type": "mixtral"}, False),
    ],
)
def test_prompts_are_shared_where_training_shares_them(
    changes: dict[str, Any], config: dict[str, Any], shares: bool, params_with: ParamsWith
) -> None:
    params = params_with(changes)
    found = replace(layout(params_with({}).launch), strategy=params.launch.strategy)
    assert resources.shares_prompts({"model_type": "qwen2"} | config, params, found) == shares


# ---------------------------------------------------------------------------------------------------------------------
# A real tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TRACES, 384)


def test_tags_that_are_added_tokens_are_fine(tokenizer: Any) -> None:
    assert str(tokens.tags(tokenizer, "x")) == "ok    tags | x: kept by decoding; <think> is 1 token"


def test_tags_that_are_special_tokens_are_a_fault() -> None:
    special = train_tokenizer(TRACES, 384)
    special.add_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS[:2]], special_tokens=True)
    finding = tokens.tags(special, "x")
    assert (finding.level, finding.saw) == ("fault", "<think>, </think> vanish when decoded")


def test_tags_that_run_into_their_surroundings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the tags among its tokens, and with text in which `>` is always followed by a line break.
    monkeypatch.setattr("posttrain.training.from_scratch.TAGS", ())
    plain = train_tokenizer(TRACES * 50, 400)
    finding = tokens.tags(plain, "x")
    assert finding.level == "warn"
    assert "across an end of <think>" in finding.saw
    assert "'>\\n'" in finding.saw


def test_end_of_turn(tokenizer: Any) -> None:
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    good = {"eos_token_id": eos, "pad_token_id": pad}
    assert tokens.end_of_turn(tokenizer, good, good, "x").level == "ok"
    assert tokens.end_of_turn(tokenizer, good, {**good, "eos_token_id": [eos, 7]}, "x").level == "ok"
    assert tokens.end_of_turn(tokenizer, good, {}, "x").level == "ok"
    finding = tokens.end_of_turn(tokenizer, good, {**good, "eos_token_id": pad}, "x")
    assert (finding.level, f"generation_config.json {pad}" in finding.saw) == ("fault", True)
    assert tokens.end_of_turn(tokenizer, {**good, "eos_token_id": None}, good, "x").level == "fault"
    assert tokens.end_of_turn(tokenizer, {**good, "pad_token_id": 7}, good, "x").level == "fault"


# ---------------------------------------------------------------------------------------------------------------------
# The workspace at its states


def prepare(project: Path) -> None:
    text = PARAMS.read_text(encoding="utf-8")
    PARAMS.write_text(text.replace("traces_per_problem: 16", "traces_per_problem: 1"), encoding="utf-8")
    assert main(["prepare"]) == 0


def make_sft_model(params: Params, **special: int) -> None:
    tokenizer = train_tokenizer(TRACES, params.model.scratch.vocab_size)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    for name, value in special.items():
        setattr(model.generation_config, name, value)
    folder = Path("unpublished")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    publish(folder, SFT_MODEL, {"stage": "sft", "versions": versions()})


def names_of(lines: list[str]) -> list[str]:
    """Of the rules, one for each line but the last."""
    return [line[6:].split(" | ")[0] for line in lines[:-1]]


def test_an_empty_workspace_says_what_it_cannot_check_yet(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:6] for line in lines[:-1]} == {"ok    ", "later "}
    assert "later golds that parse | prepare: cannot be checked before `posttrain prepare`" in lines
    assert lines[-1] == "check | 0 faults, 0 warnings | next: posttrain prepare"


def test_the_shipped_recipe_is_sound_at_every_state(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(project)
    capsys.readouterr()
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "check | 0 faults, 0 warnings | next: posttrain sft"
    assert "ok    golds that parse | data/prepared: all of 9; prepare left out 0 rows, 0.0%" in lines
    assert [line for line in lines if line.startswith("later")] == [
        "later weights of the policy | sft: cannot be checked before `posttrain sft`",
        "later end of turn | sft: cannot be checked before `posttrain sft`",
    ]
    assert len(names_of(lines)) == len(set(names_of(lines)))
    make_sft_model(load_params(PARAMS))
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:6] for line in lines[:-1]} <= {
        "ok    ",
        "warn  ",
    }  # its tokenizer saw other text, so traces are longer
    assert lines[-1].endswith("next: posttrain grpo")
    assert len(names_of(lines)) == len(set(names_of(lines)))


IN_A_PROCESS = (
    "import sys; from posttrain.cli import main; code = main(['check']); sys.exit(code or 'torch' in sys.modules)"
)


def test_the_shipped_recipe_is_checked_without_torch(project: Path) -> None:
    """With it a check would take three times as long and five times the memory."""
    prepare(project)
    make_sft_model(load_params(PARAMS))
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "ok    weights of the policy | models/sft: all there" in done.stdout


def test_a_model_that_changed_since_it_was_published_is_looked_at_by_transformers(
    project: Path, params_with: ParamsWith
) -> None:
    prepare(project)
    make_sft_model(params_with({}))
    assert models.as_published(SFT_MODEL)
    config = json.loads((SFT_MODEL / "config.json").read_text())
    (SFT_MODEL / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    assert not models.as_published(SFT_MODEL)
    (fault,) = [f for f in check.findings(params_with({}), "grpo") if f.level == "fault"]
    assert (fault.where, "instead of [" in fault.saw) == ("models/sft", True), fault


def test_the_tokenizer_of_a_model_from_scratch_is_the_one_that_transformers_would_load(
    project: Path, params_with: ParamsWith
) -> None:
    prepare(project)
    params = params_with({})
    make_sft_model(params)
    own = load_tokenizer(str(SFT_MODEL), params.model)
    auto = AutoTokenizer.from_pretrained(SFT_MODEL)
    assert type(own) is type(auto) is Qwen2Tokenizer
    for tokenizer, folder in ((own, "own"), (auto, "auto")):
        tokenizer.save_pretrained(folder)
    for path in Path("auto").iterdir():
        assert (Path("own") / path.name).read_bytes() == path.read_bytes()


def test_the_speed_of_numpy_is_that_of_torch() -> None:
    numpys, torchs = speed.numpy_tflops(1), speed.torch_tflops("cpu", "float32", 1)
    assert 1 / 2 < numpys / torchs < 2


def test_who_measures_says_nothing_when_its_asker_is_killed() -> None:
    with subprocess.Popen([sys.executable, speed.__file__], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        asked.stdout.close()
        assert asked.stderr is not None
        assert asked.stderr.read() == b""
    assert asked.returncode == 0


def test_a_product_that_takes_long_is_not_followed_by_a_larger_one() -> None:
    asked = []

    def square(size: int) -> Any:
        asked.append(size)
        return type("Slow", (), {"__matmul__": lambda self, _: time.sleep(0.01) or {(0, 0): 1.0}})()

    speed.fastest(square, (8, 8, 64))
    assert asked == [8, 8]


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, set()),
        ({"launch.mixed_precision": "bf16"}, {"sft", "grpo"}),
        ({"model.dtype": "bfloat16"}, {"sft", "grpo"}),
        ({"grpo.generation_dtype": "bfloat16"}, {"grpo"}),
    ],
)
def test_bfloat16_on_a_cpu_that_imitates_it_is_warned_of(
    changes: dict[str, Any], stages: set[str], project: Path, params_with: ParamsWith
) -> None:
    """By what this machine is: with instructions for it there is nothing to warn of."""
    make_sft_model(params_with({}))
    params = params_with({"launch.strategy": "single", "launch.processes": 1, **changes})
    may = {"ok", "warn"} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {"warn"}
    may -= {"warn"} if torch.cpu._is_avx512_bf16_supported() else set()
    for stage in ("sft", "grpo"):
        found = [finding for finding in check_resources(stage, check.Workspace(params)) if "bfloat16" in finding.name]
        assert len(found) == (stage in stages)
        assert levels(found) <= may
        assert all(key in finding.where for key in changes for finding in found)


NO_GPUS = {"params.yaml: launch.strategy", "params.yaml: grpo.use_vllm", "params.yaml: evaluate.use_vllm"}
"""Where a recipe for GPUs has a fault on a machine without; tests/contract/test_recipes.py looks at it with them."""


def test_no_recipe_has_a_fault(project: Path) -> None:
    shutil.copytree(ROOT / "recipes", project / "recipes")
    for path in sorted((project / "recipes").glob("*.yaml")):
        apply_recipe(path.stem)
        params = load_params(PARAMS)
        faults = {finding.where for finding in check.findings(params) if finding.level == "fault"}
        brought = {"params.yaml: model.name_or_path"} if params.model.name_or_path.startswith("models/base/") else set()
        assert faults <= (brought if params.launch.strategy == "auto" else NO_GPUS), path.name


def test_a_fault_exits_2_and_stops_the_stage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(project)
    make_sft_model(load_params(PARAMS), eos_token_id=0)
    capsys.readouterr()
    assert main(["check"]) == 2
    shown = capsys.readouterr().out
    assert "\nfault end of turn | models/sft: the tokenizer ends a turn with" in shown
    assert shown.splitlines()[-1].endswith("next: mend the faults, then posttrain check")
    assert main(["grpo"]) == 2
    assert capsys.readouterr().err.startswith("posttrain grpo: models/sft (end of turn)\n  got ")


def test_a_stage_prints_the_warnings_that_concern_it(
    project: Path, params_with: ParamsWith, capsys: pytest.CaptureFixture[str]
) -> None:
    sick = params_with({"grpo.beta": 0.0, "grpo.num_generations": 4})
    check.preflight(sick, "grpo")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["grpo", "warn  too few generations per prompt"],
        ["grpo", "warn  ignoring KL divergence"],
    ]
    check.preflight(sick, "sft")
    check.preflight(sick, "prepare")
    assert capsys.readouterr().out == ""


def test_several_faults_are_one_message(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    params = params_with({"grpo.max_completion_length": 400, "grpo.prompts_per_step": 2000})
    with pytest.raises(InputError, match="2 faults") as caught:
        check.preflight(params, "grpo")
    assert "context length" in str(caught.value)
    assert "problems per step" in str(caught.value)


def test_golds_that_cannot_be_read_are_a_fault(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    path = PREPARED / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:20]
    path.write_text("".join(json.dumps(row | {"answer": "?!"}) + "\n" for row in rows), encoding="utf-8")
    (finding,) = data.check_golds(check.Workspace(params_with({})))
    assert (finding.level, finding.saw) == ("fault", "1 of 1 cannot be read, such as '?!'")
    assert main(["check"]) == 2


def test_another_spelling_of_the_gold_is_no_wrong_answer(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    work = check.Workspace(params_with({}))
    work.train = [{"id": str(i), "problem": "?", "answer": gold} for i, gold in enumerate(("1/2", "0.5", "2/4", "3"))]
    assert data.wrong_answer(work.train[0], work) == "3"
    assert levels(data.check_rewards(work)) == {"ok"}


def test_every_kind_of_reward_is_tried_on_groups(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    Path("rewards").mkdir()
    Path("rewards/own.py").write_text(
        "def brevity(completion, limit):\n    return float(len(completion.text) < limit)\n"
    )
    own = {"weight": 0.5, "function": "rewards/own.py:brevity", "timeout_s": 2, "limit": 60}
    params = params_with({"rewards.length": {"weight": 0.2}, "rewards.brevity": own})
    found = by_name(check.findings(params, "grpo"))
    assert found["reward length"].level == "ok"  # shorter than the rest of its group, which has to be one
    assert found["reward brevity"].saw.startswith("0 to 1, ")
    Path("rewards/own.py").write_text("def brevity(completion, limit):\n    return 1 / 0\n")
    faults = [finding for finding in check.findings(params, "grpo") if finding.level == "fault"]
    assert [finding.name for finding in faults] == ["input"]
    assert "ZeroDivisionError" in faults[0].saw
    with pytest.raises(InputError) as error:
        check.preflight(params, "grpo")
    assert str(error.value).startswith("rewards/own.py:brevity (rewards.brevity)\n")
    assert "\n  wanted  a finite number or None, within rewards.brevity.timeout_s\n" in str(error.value)
    loads = project / "loads"  # a file: a worker's stderr is that of whoever started the fork server
    Path("rewards/own.py").write_text(f"open({str(loads)!r}, 'a').write('x')\nwhile True: pass\n")
    with pytest.raises(InputError, match="more than 2 s of CPU"):
        check.preflight(params, "grpo")
    assert loads.read_text() == "x"  # not once for each check that asks for rewards


def plan_of(work: check.Workspace, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """What check_resources estimates for grpo, before it is rounded."""
    found: list[Plan] = []

    def keep(name: str, plan: Plan, usual: Plan, free_gib: float, device: str) -> Finding:
        found.append(plan)
        return memory_and_time(name, plan, usual, free_gib, device)

    monkeypatch.setattr(resources, "memory_and_time", keep)
    check_resources("grpo", work)
    return found[0]


def test_a_colocated_vllm_needs_its_share_unless_it_sleeps(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sft_model(params_with({}))

    def planned(share: float, sleeps: bool) -> Plan:
        vllm = {"gpu_memory_utilization": share, "enable_sleep_mode": sleeps}
        changes = {"grpo.use_vllm": True} | {f"launch.vllm.{name}": value for name, value in vllm.items()}
        return plan_of(check.Workspace(params_with(changes)), monkeypatch)

    plain = plan_of(check.Workspace(params_with({})), monkeypatch)
    steps, half = plain.activations + plain.logits, 0.5 * resources.system_memory_gib("MemTotal") * GIB
    assert planned(0.5, sleeps=False).total - plain.total == pytest.approx(half)
    assert planned(0.5, sleeps=True).total - plain.total == pytest.approx(half - steps)
    assert planned(0.001, sleeps=True).total == plain.total  # less than a pass takes while it sleeps
    assert half > steps > 0.001 * 2 * half


SMOLLM2 = {
    **{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
}


@dataclass(frozen=True)
class Run:
    """A stage of a recipe as it ran, and what was measured."""

    recipe: str
    stage: Literal["sft", "grpo"]
    micro_batch: int
    longest: int
    """Tokens of a prompt; 0 for SFT, which counts them with the completion."""
    prompt: int
    completion: int
    """Tokens, on average."""
    tflops: float
    gib: float
    seconds: float


@pytest.mark.parametrize(
    "run",
    [
        Run("tiny", "sft", 64, 0, 0, 94, 0.1, 0.80, 158),
        Run("tiny", "grpo", 64, 29, 29, 65, 0.1, 0.97, 98),
        Run("smollm2-gsm8k", "sft", 4, 0, 0, 141, 0.145, 4.7, 2467),
        Run("smollm2-gsm8k", "grpo", 16, 170, 78, 62, 0.145, 6.1, 4450),
    ],
    ids=lambda run: f"{run.recipe}-{run.stage}",
)
def test_estimates_are_within_a_third_of_what_was_measured(run: Run, project: Path) -> None:
    shutil.copytree(ROOT / "recipes", project / "recipes")
    apply_recipe(run.recipe)
    work = check.Workspace(load_params(PARAMS))
    machine, _, _ = resources.measured(layout(work.params.launch.model_copy(update={"processes": 1})), "float32")
    model = from_config(SMOLLM2 if run.recipe != "tiny" else work.config("sft"), run.recipe)
    assert model is not None
    longest = replace(resources.stage_work(run.stage, work), prompt_length=run.longest)
    usual = replace(longest, prompt_length=run.prompt, max_completion_length=run.completion)
    machine = replace(machine, tflops=run.tflops)
    memory, time = (
        resources.sharing_prompts(Plan(model, asked, machine, DDP, micro_batch=min(asked.sequences, run.micro_batch)))
        for asked in (longest, usual)
    )
    assert 2 / 3 < memory.total / GIB / run.gib < 4 / 3
    assert 2 / 3 < (resources.START_S + usual.max_steps * time.step_s) / run.seconds < 4 / 3


@pytest.mark.parametrize(
    ("dtype", "strategy", "precision"),
    [
        ("float32", "zero2", "float32"),
        ("bfloat16", "zero2", "mixed"),
        ("bfloat16", "zero3", "mixed"),
        ("bfloat16", "ddp", "bfloat16"),
    ],
)
def test_sharded_weights_have_longer_ones_beside_them(
    dtype: str, strategy: str, precision: str, project: Path, params_with: ParamsWith
) -> None:
    params = params_with({"model.dtype": dtype, "launch.strategy": strategy, "launch.processes": 2})
    for stage in ("sft", "grpo"):
        assert resources.stage_work(stage, check.Workspace(params)).precision == precision


def test_the_layout_and_the_adapters_of_params_are_estimated(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sft_model(params_with({}))
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": False}
    launch = {"strategy": "zero3", "processes": 2, "micro_batch_size": 16, "activation_checkpointing": True}
    changes = {"model.lora": lora, "grpo.num_iterations": 2, "grpo.beta": 0.0}
    plan = plan_of(check.Workspace(params_with(changes | {f"launch.{k}": v for k, v in launch.items()})), monkeypatch)
    assert plan.strategy == replace(ZERO3, adapters=True)
    assert (plan.machine.gpus, plan.micro_batch, plan.passes, plan.recompute) == (2, 16, 4, True)
    assert (plan.work.lora_rank, plan.work.num_iterations, plan.work.reference) == (4, 2, False)
    assert plan.gradients == 4 * 4 * plan.model.adapter / 2


def test_a_vllm_that_holds_no_completion_is_named(project: Path, params_with: ParamsWith) -> None:
    make_sft_model(params_with({}))
    share = {"grpo.use_vllm": True, "launch.vllm.gpu_memory_utilization": 1e-6}
    (finding,) = check_resources("grpo", check.Workspace(params_with(share)))
    assert (finding.level, finding.where) == ("warn", "launch.vllm.gpu_memory_utilization")


def test_processes_on_a_cpu_share_its_memory(project: Path, params_with: ParamsWith) -> None:
    def free(processes: int) -> float:
        launch = {"launch.strategy": "ddp" if processes > 1 else "single", "launch.processes": processes}
        (finding,) = check_resources("sft", check.Workspace(params_with(launch)))
        return float(re.findall(r"of ([\d.]+) GiB", finding.saw)[0])

    assert free(4) == pytest.approx(free(1) / 4, rel=0.2)


@pytest.mark.skipif(os.access("/proc/sys", os.W_OK), reason="/proc/sys can be written")
def test_outputs_where_the_system_lets_nobody_write_are_a_fault(project: Path, params_with: ParamsWith) -> None:
    work = check.Workspace(params_with({}))
    assert levels(machine.check_outputs(work)) == {"ok"}
    Path("models").symlink_to("/proc/sys")
    (finding,) = machine.check_outputs(work)
    assert finding.level == "fault"
    assert re.fullmatch("/proc/sys: (Read-only file system|No such file or directory)", finding.where)  # by its kernel


MOUNTS = """
for name in data models results .posttrain; do mkdir -p $name full/$name closed/$name; done
mkdir -p models/sft results/sft
mount -t tmpfs none models/sft
mount --bind results/sft results/sft
for name in data models results .posttrain; do
    mount -t tmpfs -o size=4k none full/$name
    mount -t tmpfs none closed/$name && mount -o remount,ro closed/$name
done
exec "$0" -c '
from pathlib import Path
from posttrain.outputs.disk import mounted, unwritable
for name in ("data", "models", "results", ".posttrain"):
    print(unwritable(Path(name)), unwritable(Path("full", name)), unwritable(Path("closed", name)), sep="|")
print(*map(mounted, map(Path, ("models/sft", "results/sft", "models", "data", "models/grpo"))))
'
"""


def test_each_folder_full_read_only_and_mounted(tmp_path: Path) -> None:
    """Under mounts of its own: file systems of a page, closed ones, and two where an output belongs."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("no mounts in a namespace here: unshare -rm")
    command = ["unshare", "-rm", "sh", "-ec", MOUNTS, sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    *folders, points = done.stdout.splitlines()
    assert folders == ["None|No space left on device|Read-only file system"] * 4, done.stderr
    assert points == "True True True False False"


def test_outputs_on_a_full_disk_are_a_fault(project: Path, params_with: ParamsWith) -> None:
    work = check.Workspace(params_with({}))
    assert levels(machine.check_disk("sft", work)) == {"ok"}
    Path("models").symlink_to("/proc")  # which has no room
    model, checkpoints = machine.check_disk("sft", work)
    assert (model.level, checkpoints.level) == ("fault", "ok")
    assert model.saw.startswith("0 B free, ")


def test_room_is_asked_for_by_what_there_will_be(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert machine.room("x", tmp_path, 0, 0).level == "ok"
    assert machine.room("x", tmp_path, 0, 2 * free).level == "warn"
    assert machine.room("x", tmp_path, 2 * free, 2 * free).level == "fault"


def test_a_missing_environment_of_lighteval_is_a_fault(
    project: Path, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTEVAL_PYTHON", "/nowhere/python")
    faults = [finding for finding in check.findings(params_with({}), "evaluate") if finding.level == "fault"]
    assert [(finding.where, finding.saw) for finding in faults] == [("/nowhere/python", "no such file")]


def test_an_evaluation_has_to_fit_into_the_context(project: Path, params_with: ParamsWith) -> None:
    prepare(project)
    make_sft_model(params_with({}))
    found = by_name(check.findings(params_with({"evaluate.max_new_tokens": 300}), "evaluate"))
    assert (found["context length of evaluate"].level, found["context length of evaluate"].where) == (
        "fault",
        "evaluate.max_new_tokens",
    )


def test_a_model_without_a_template_is_a_fault(project: Path, params_with: ParamsWith) -> None:
    base = project / "models/base/mine"
    tokenizer = train_tokenizer(TRACES, 384)
    random_model(params_with({}).model.scratch, tokenizer).save_pretrained(base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    (fault,) = [f for f in check.findings(params_with({"model.name_or_path": str(base)})) if f.level == "fault"]
    assert fault.saw == "a tokenizer without a chat template"


@pytest.mark.parametrize(
    ("name", "system", "level", "saw"),
    [
        ("Gemma-2", "Think first.", "fault", "System role not supported"),
        ("DeepSeek-R1-Distill", None, "ok", "opens '<think>\\n', which completions get back"),
        ("Qwen3, thinking off", None, "warn", "closes empty thoughts"),
    ],
)
def test_what_a_template_does_is_said(
    name: str, system: str | None, level: str, saw: str, project: Path, params_with: ParamsWith
) -> None:
    base = Path("models/base/theirs")
    tokenizer = save(TEMPLATES[name], TRACES, base)
    random_model(params_with({}).model.scratch, tokenizer).save_pretrained(base)
    found = check.findings(params_with({"model.name_or_path": str(base), "prompts.system": system}))
    (finding,) = [f for f in found if f.name == "chat template" or f.level == "fault"]
    assert (finding.level, saw in finding.saw) == (level, True), finding
