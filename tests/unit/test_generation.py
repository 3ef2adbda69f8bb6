"""What a model generates with, wherever that is: nothing of its base's generation_config.json; what is published."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from posttrain.commands.chat import load
from posttrain.grpo.batch_rewards import BatchRewards
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.params.schema import Params
from posttrain.rewards.scoring import Scoring
from posttrain.sft.base import base_model
from posttrain.sft.samples import sample_rows
from posttrain.training.card import card
from posttrain.training.models import load_model
from posttrain.training.pretrained import load_tokenizer
from posttrain.training.publish import publish_model, sampling
from tests.conftest import params_of
from tests.templates import TEMPLATES
from tests.trainers import KNOWN as ROWS
from tests.trainers import SMALL, learnt_checkpoint

ParamsWith = Callable[[dict[str, Any]], Params]

ROOT = Path(__file__).parents[2]
BENT = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 60,
    "top_k": 1,
    "top_p": 0.1,
    "temperature": 0.1,
    "do_sample": True,
    "suppress_tokens": [9],
}
"""With any of the first three, no trace could be written."""
THINKING = ("DeepSeek-R1-Distill", "Qwen3-Thinking-2507")
CHANGES = {
    "model.scratch": SMALL,
    "grpo.num_generations": 2,
    "grpo.prompts_per_step": 2,
    "grpo.max_completion_length": 64,
    "grpo.temperature": 0.2,
    "rewards": {
        "format": {"weight": 1.0},
        "tag_count": {"weight": 1.0},
        "soft_overlong_punishment": {"weight": 1.0, "max_completion_len": 64, "soft_punish_cache": 8},
    },
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Somebody's models, which know ROWS by heart, and whose files would have them write something else."""
    found = {}
    for name in (*THINKING, "Qwen2.5"):
        found[name] = tmp_path_factory.mktemp("base") / "model"
        learnt_checkpoint(params_of(CHANGES), TEMPLATES[name], ROWS, found[name])
        path = found[name] / "generation_config.json"
        config = json.loads(path.read_text()) | BENT
        eos = config["eos_token_id"]
        path.write_text(
            json.dumps(config | {"eos_token_id": [eos, AutoTokenizer.from_pretrained(found[name]).vocab["="]]})
        )
    return found


def base(checkpoints: dict[str, Path], name: str, params_with: ParamsWith) -> Params:
    return params_with(CHANGES | {"model.name_or_path": str(checkpoints[name])})


def test_the_files_bend_what_transformers_generates(checkpoints: dict[str, Path]) -> None:
    """The fixture does what it is for."""
    folder = checkpoints["Qwen2.5"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": ROWS[0]["problem"]}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    written = tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0])
    assert ROWS[0]["completion"] not in written


@pytest.mark.parametrize("name", [*THINKING, "Qwen2.5"])
def test_samples_and_chat_are_whole_and_the_models_own(
    name: str, checkpoints: dict[str, Path], params_with: ParamsWith, capfd: pytest.CaptureFixture[str]
) -> None:
    params = base(checkpoints, name, params_with)
    model, tokenizer = base_model(params, ROWS)
    capfd.readouterr()
    for row, sampled in zip(ROWS, sample_rows(model, tokenizer, ROWS, None, 128), strict=True):
        assert sampled == {"problem": row["problem"], "completion": row["completion"], "finished": True}
    reply = load(checkpoints[name], params)(ROWS[1]["problem"])
    assert (reply.completion, reply.finished, reply.thoughts) == (ROWS[1]["completion"], True, "3x = 21")
    assert "generation flags" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", [*THINKING, "Qwen2.5"])
def test_rollouts_are_whole_and_earn_the_form_rewards(
    name: str, checkpoints: dict[str, Path], params_with: ParamsWith, tmp_path: Path
) -> None:
    params = base(checkpoints, name, params_with)
    folder, tokenizer = checkpoints[name], load_tokenizer(str(checkpoints[name]), params.model)
    with Scoring(params.rewards, params.verifier, 1) as scoring:
        rewards = BatchRewards(scoring, ROWS, 2)
        trainer = Trainer(params, folder, tokenizer, rewards, trainer_config(params, tmp_path), probed=ROWS)
        trainer.model.train()
        examples = [trainer.train_dataset[row] for row in (0, 0, 1, 1)]
        batch = trainer.roll_out(examples)
        written = [rollout.completion[-1]["content"] for rollout in batch.rollouts]
        assert written == [ROWS[row]["completion"] for row in (0, 0, 1, 1)]
        assert batch.rewards.tolist() == [[1.0, 1.0, 0.0]] * 4
        assert trainer.solve_probe() == 1.0
        assert [row["format"] for row in trainer.sample(ROWS)] == [1.0, 1.0]
        for rollout, text in zip(batch.rollouts, written, strict=True):  # lengths are of what was generated
            own = text.removeprefix("<think>\n") if name in THINKING else text
            assert len(rollout.ids) == len(tokenizer(own + tokenizer.eos_token, add_special_tokens=False)["input_ids"])
        assert trainer.eos_token_ids == trainer.generation_config.eos_token_id == [tokenizer.eos_token_id]


# ---------------------------------------------------------------------------------------------------------------------
# What is published


def published(folder: Path, params: Params, stage: str, checkpoint: Path) -> Path:
    model, tokenizer = load_model(str(checkpoint), params.model), load_tokenizer(str(checkpoint), params.model)
    sections = {"seed", "model", "prompts", stage}
    record = {"stage": stage, "params": params.model_dump(mode="json", include=sections), "parents": {}, "inputs": {}}
    text = card(record, {}, ROWS[0]["problem"], ROWS[0]["completion"], None)
    publish_model(folder / "models" / stage, model, tokenizer, record, text)
    return folder / "models" / stage


@pytest.mark.parametrize(("stage", "temperature"), [("sft", 1.0), ("grpo", 0.2)])
def test_the_published_config_holds_tokens_and_the_stages_sampling(
    stage: str, temperature: float, checkpoints: dict[str, Path], params_with: ParamsWith, tmp_path: Path
) -> None:
    folder = published(tmp_path, base(checkpoints, "Qwen2.5", params_with), stage, checkpoints["Qwen2.5"])
    config = json.loads((folder / "generation_config.json").read_text())
    del config["transformers_version"]
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    assert config == tokens | {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    assert GenerationConfig.from_pretrained(folder).top_k == 0


def test_what_grpo_rolled_out_with_is_published(params_with: ParamsWith) -> None:
    params = params_with({"grpo.top_p": 0.9, "grpo.trl": {"top_k": 20, "min_p": 0.1}})
    found = sampling(params.model_dump(mode="json"))
    assert found == {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.1}


SNIPPETS = """
import json, os, sys
for folder, code in json.load(sys.stdin):
    os.chdir(folder)
    exec(code, {"__name__": "__main__"})
    print("\\f", end="")
"""


def run_snippets(snippets: list[tuple[Path, str]]) -> tuple[list[str], str]:
    """What each prints in its folder, one after another in one process, and what they say beside."""
    told = json.dumps([(str(folder), code) for folder, code in snippets])
    command = [sys.executable, "-W", "error::UserWarning", "-c", SNIPPETS]
    ran = subprocess.run(command, input=told, capture_output=True, text=True, check=True)
    return ran.stdout.split("\f")[:-1], ran.stderr


def snippet(page: Path) -> str:
    """The page's Python that loads a model."""
    text = page.read_text(encoding="utf-8")
    assert "models/grpo" in text
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "from_pretrained" in code)
    return code


def test_the_snippets_print_thoughts_and_answer(
    checkpoints: dict[str, Path], params_with: ParamsWith, tmp_path: Path
) -> None:
    for name in ("Qwen3-Thinking-2507", "Qwen2.5"):
        (tmp_path / name).mkdir()
        published(tmp_path / name, base(checkpoints, name, params_with), "grpo", checkpoints[name])
    thinking, plain = tmp_path / "Qwen3-Thinking-2507", tmp_path / "Qwen2.5"
    card, pages = thinking / "models/grpo/README.md", [ROOT / "README.md", ROOT / "docs/tutorial.md"]
    printed, said = run_snippets([(thinking, snippet(card)), *((plain, snippet(page)) for page in pages)])
    assert len(printed) == 3
    for text in printed:
        assert "Solve: 3x - 5 = 10<|im_end|>" in text
        assert text.endswith("<|im_start|>assistant\n" + ROWS[0]["completion"] + "<|im_end|>\n")
    assert "generation flags" not in said
