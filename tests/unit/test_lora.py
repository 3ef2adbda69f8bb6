"""LoRA in sft and grpo: only the named layers move, and a plain checkpoint with the same logits is published."""

import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from posttrain.errors import InputError, RetryError
from posttrain.training import export, lora
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import align_special_tokens
from posttrain.training.resume import Saver
from stages import grpo, prepare, sft
from tests.conftest import ParamsWith
from tests.trainers import tiny_trainer

TARGETS = ["q_proj", "down_proj"]
ADAPTER = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": TARGETS, "quantize_4bit": False}
SMALL: dict[str, Any] = {
    "model.name_or_path": "base",
    "model.lora": ADAPTER,
    "model.scratch.num_hidden_layers": 2,
    "model.scratch.hidden_size": 16,
    "model.scratch.intermediate_size": 16,
    "prepare.equations.max_coefficient": 3,
    "prepare.equations.max_solution": 4,
    "prepare.equations.max_constant": 4,
    "prepare.equations.traces_per_problem": 2,
    "sft.max_steps": 2,
    "sft.warmup_steps": 0,
    "sft.logging_steps": 1,
    "sft.learning_rate": 0.05,
    "grpo.max_steps": 2,
    "grpo.warmup_steps": 0,
    "grpo.learning_rate": 0.05,
    "grpo.prompts_per_step": 2,
    "grpo.num_generations": 4,
    "grpo.max_completion_length": 8,
    "rewards": {"vowels": {"weight": 1.0, "function": "rewards/vowels.py:vowels", "timeout_s": 5}},
}
VOWELS = "def vowels(completion):\n    return sum(letter in 'aeiou' for letter in completion.text) / 8 + 1\n"


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


@pytest.fixture
def ready(project: Path, root: Path, params_with: ParamsWith) -> PreTrainedTokenizerBase:
    """A project with prepared data, a reward that a random model varies in, and a base model, whose tokenizer it is."""
    (project / "rewards").mkdir()
    (project / "rewards/vowels.py").write_text(VOWELS)
    (project / "data/source").mkdir(parents=True)
    shutil.copy(root / "dvc.yaml", project)  # the fingerprint of checkpoints reads it
    params = params_with(SMALL)
    prepare.run(params)
    torch.manual_seed(0)
    tokenizer = train_tokenizer((project / "data/prepared/train.jsonl").read_text().splitlines(), 384)
    base = random_model(params.model.scratch, tokenizer)
    align_special_tokens(base, tokenizer)
    base.save_pretrained("base")
    tokenizer.save_pretrained("base")
    return tokenizer


def test_only_the_named_layers_move_and_the_merged_checkpoints_have_the_adapters_logits(
    ready: PreTrainedTokenizerBase, params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, tokenizer = params_with(SMALL), ready
    ids = torch.arange(10, 50).view(2, 20)
    with_adapters, references = [], []

    def merged(model: Any, *rest: Any) -> Any:
        """Looks at the trained model on its way."""
        model.eval()
        with torch.no_grad():
            with_adapters.append(model(ids).logits)
            with model.disable_adapter():
                references.append(model(ids).logits)
        assert {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad} == {*TARGETS}
        return lora.merged(model, *rest)

    monkeypatch.setattr(export, "merged", merged)
    sft.run(params)
    grpo.run(params)

    folders = ["base", "models/sft", "models/grpo"]
    for number, (before, after) in enumerate(pairwise(folders)):
        old, new = weights(before), weights(after)
        assert old.keys() == new.keys()
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        assert moved == {name for name in old if name.split(".")[-2:] in [[target, "weight"] for target in TARGETS]}
        assert not list(Path(after).glob("adapter*"))
        assert {tensor.dtype for tensor in new.values()} == {torch.float32}
        assert AutoConfig.from_pretrained(after).to_dict().keys() == AutoConfig.from_pretrained(before).to_dict().keys()
        assert AutoTokenizer.from_pretrained(after).chat_template == tokenizer.chat_template
        with torch.no_grad():
            logits = [AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits for folder in (before, after)]
        assert (logits[1] - with_adapters[number]).abs().max() < 1e-5
        assert (logits[1] - logits[0]).abs().max() > 1e-3  # two steps did something
        # The reference of the KL divergence is the model that the stage started from.
        assert torch.equal(references[number], logits[0])


def outputs(stage: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in ("models", "results") for path in Path(folder, stage).iterdir()}


MOVING = {"sync_ref_model": True, "ref_model_sync_steps": 1, "use_adaptive_entropy": True, "entropy_target": 9.0}


@pytest.mark.parametrize(
    "changes",
    [{"model.lora": ADAPTER | {"dropout": 0.1}}, {"model.lora": None, "grpo.beta": 1.0, "grpo.trl": MOVING}],
    ids=["adapters", "a reference that moves"],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    changes: dict[str, Any],
    ready: PreTrainedTokenizerBase,
    params_with: ParamsWith,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = params_with(SMALL | {"grpo.max_steps": 3, "grpo.keep_completions_steps": 1} | changes)
    stages = {sft: "sft", grpo: "grpo"}
    whole = {}
    for stage, name in stages.items():
        stage.run(params)
        whole[name] = outputs(name)
    on_step_end = Saver.on_step_end

    def stopped(self: Saver, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(Saver, "on_step_end", stopped)
    for stage, name in stages.items():
        with pytest.raises(RetryError, match="stopped after step 1 of"):
            stage.run(params)
        stage.run(params)
        assert "goes on after step 1" in capsys.readouterr().out
        assert outputs(name) == whole[name]
    assert "results/grpo/completions.parquet" in whole["grpo"]


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_adapters_need_no_second_model(beta: float, params_with: ParamsWith, tmp_path: Path) -> None:
    params = params_with(SMALL | {"grpo.beta": beta})
    rows = [{"problem": "Solve: 3x - 5 = 10", "answer": "x = 5"}]
    trainer = tiny_trainer(params, rows, lambda completions, **_: [0.0] * len(completions), tmp_path)
    assert trainer.ref_model is None
    assert trainer.beta == beta


def test_a_layer_that_the_model_lacks_is_named(params_with: ParamsWith) -> None:
    params = params_with(SMALL | {"model.lora": ADAPTER | {"target_modules": ["q_proj", "v_prj"]}})
    model = random_model(params.model.scratch, train_tokenizer(["Solve: 3x - 5 = 10"], 384))
    with pytest.raises(InputError, match=r"did you mean `v_proj`\?"):
        lora.check_targets(model, params)
    lora.check_targets(model, params_with(SMALL))
    lora.check_targets(model, params_with(SMALL | {"model.lora": ADAPTER | {"target_modules": "all-linear"}}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.lora": ADAPTER | {"target_modules": ["lm_head"]}}, "between embedding and output"),
        ({"model.lora": ADAPTER | {"target_modules": []}}, "at least"),
        ({"model.lora": ADAPTER | {"rank": 4}}, "unknown key"),
        ({"model.name_or_path": "scratch", "model.lora": ADAPTER | {"quantize_4bit": True}}, "are not loaded"),
        ({"grpo.trl": {"sync_ref_model": True}}, "policy without its adapter"),
    ],
)
def test_adapters_that_cannot_work_are_refused(changes: dict[str, Any], said: str, params_with: ParamsWith) -> None:
    with pytest.raises(InputError, match=said):
        params_with(SMALL | changes)


def test_four_bits_need_a_gpu_and_bitsandbytes(params_with: ParamsWith, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_with(SMALL | {"model.lora": ADAPTER | {"quantize_4bit": True}, "launch.device": "auto"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="a CUDA GPU"):
        lora.loading(params)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .*bitsandbytes"):
        lora.loading(params)
    assert lora.loading(params_with(SMALL)) == {}


def test_gathered_weights_merge_as_peft_merges_them(ready: PreTrainedTokenizerBase, params_with: ParamsWith) -> None:
    params = params_with(SMALL)
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("base"), lora.adapter_config(params))
    for name, value in model.named_parameters():
        if "lora_B" in name:  # zero at first, and merging would do nothing
            torch.nn.init.normal_(value.data)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    rebuilt = export.rebuilt(model, weights, params)
    expected = model.merge_and_unload()
    assert dict(rebuilt.named_parameters()).keys() == dict(expected.named_parameters()).keys()
    for name, value in expected.named_parameters():
        assert torch.allclose(rebuilt.get_parameter(name), value, atol=1e-6), name
    weights.popitem()
    with pytest.raises(RuntimeError, match="do not fit"):
        export.rebuilt(model, {**weights, "other": torch.zeros(1)}, params)
