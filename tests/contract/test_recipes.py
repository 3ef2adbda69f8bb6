"""Recipes for GPUs fit the GPUs that they name, and say of `posttrain plan` what it prints."""

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from posttrain import paths
from posttrain.cli import main
from posttrain.commands.check.optimizer import precision
from posttrain.commands.plan.machine import DDP, GIB, LORA, ZERO2, ZERO3, Machine, Strategy
from posttrain.commands.plan.model import QWEN, from_config
from posttrain.commands.plan.plan import Plan
from posttrain.commands.plan.work import Work, grpo_work, sft_work
from posttrain.data.sources import load
from posttrain.params.file import load_params, read_yaml
from posttrain.params.recipes import apply_recipe, list_recipes
from posttrain.params.schema import Params
from posttrain.training.batches import batch_plan

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/recipes.md"
PROMPT = 512
"""Tokens: open-r1's bound on the problems of OpenR1-Math-220k."""


@dataclass(frozen=True)
class Hardware:
    config: str
    gpus: int
    memory_gib: float
    strategy: Strategy


HARDWARE = {
    "tutorial": Hardware("Qwen2.5-1.5B", 8, 80, ZERO2),
    "openr1-distill-qwen-1.5b": Hardware("Qwen2.5-1.5B", 8, 80, ZERO2),
    "qwen-7b-zero3": Hardware("Qwen2.5-7B", 8, 80, ZERO3),
    "lora-24gb": Hardware("Qwen2.5-1.5B", 1, 24, LORA),
}
FOR_CPU = {"tiny", "smollm2-gsm8k"}
FOR_ANY = {"grpo-only"}
"""Of whatever model is there."""


@pytest.fixture
def recipes(project: Path) -> Path:
    (project / "recipes").symlink_to(ROOT / "recipes")
    return project


def applied(name: str) -> Params:
    apply_recipe(name)
    return load_params(paths.PARAMS)


def test_every_recipe_is_for_a_cpu_or_has_hardware(recipes: Path) -> None:
    assert {name for name, _ in list_recipes()} == {*HARDWARE, *FOR_CPU, *FOR_ANY}


@pytest.mark.parametrize("name", HARDWARE)
def test_a_recipe_names_what_it_is_planned_for(name: str, recipes: Path) -> None:
    params, hardware = applied(name), HARDWARE[name]
    assert params.model.name_or_path == f"Qwen/{hardware.config}-Instruct"
    assert (params.model.lora is not None) == (hardware.strategy is LORA)
    assert params.launch.strategy in hardware.strategy.name or hardware.gpus == 1
    assert "Not run by us yet" in (ROOT / f"recipes/{name}.yaml").read_text()


@pytest.mark.parametrize("name", HARDWARE)
def test_grpo_fits(name: str, recipes: Path) -> None:
    params, hardware = applied(name), HARDWARE[name]
    work = grpo_work({"prompt_length": PROMPT}, params)
    micro = batch_plan(work.sequences, params.launch.micro_batch_size, hardware.gpus).per_device
    assert micro == params.launch.micro_batch_size
    assert gib(params, hardware, work, micro) <= hardware.memory_gib


@pytest.mark.parametrize("name", HARDWARE)
def test_sft_fits(name: str, recipes: Path) -> None:
    """It has no reference and generates nothing but four samples; every token of a row may be one of the completion."""
    params, hardware = applied(name), HARDWARE[name]
    micro = batch_plan(params.sft.batch_size, params.launch.micro_batch_size, hardware.gpus).per_device
    assert micro == params.launch.micro_batch_size
    samples = replace(sft_work(params), prompts_per_step=hardware.gpus, generates=True)
    assert gib(params, hardware, samples, micro) <= hardware.memory_gib


def gib(params: Params, hardware: Hardware, work: Work, micro: int, strategy: Strategy | None = None) -> float:
    """What one GPU needs, by plan's formulas, for the recipe's micro-batch and choice of activations."""
    model, machine = from_config(QWEN[hardware.config], hardware.config), Machine(hardware.gpus, hardware.memory_gib)
    assert model is not None
    recompute = params.launch.activation_checkpointing
    return Plan(model, work, machine, strategy or hardware.strategy, recompute, micro).total / GIB


def test_what_does_not_fit_is_seen(recipes: Path) -> None:
    """The same test with a GPU's share at once, or all weights in each process, is not passed."""
    params, hardware = applied("lora-24gb"), HARDWARE["lora-24gb"]
    assert gib(params, hardware, grpo_work({}, params), 64) > hardware.memory_gib
    params, hardware = applied("qwen-7b-zero3"), HARDWARE["qwen-7b-zero3"]
    assert gib(params, hardware, grpo_work({}, params), 1, DDP) > hardware.memory_gib


@pytest.mark.parametrize("name", HARDWARE)
def test_bfloat16_weights_have_float32_ones_beside_them(name: str, recipes: Path) -> None:
    params = applied(name)
    assert params.model.dtype == "bfloat16"
    assert params.launch.mixed_precision == "bf16"
    launch, adapters = params.launch, params.model.lora is not None
    for stage in (params.sft, params.grpo):
        found = precision("x", stage.learning_rate, "bfloat16", launch.mixed_precision, launch.strategy, adapters)
        assert found.level == "ok"


@pytest.mark.parametrize("name", HARDWARE)
def test_completions_of_sft_grpo_and_evaluation_are_as_long(name: str, recipes: Path) -> None:
    """What SFT teaches, GRPO can end, and lighteval does not cut."""
    params = applied(name)
    assert params.evaluate.max_new_tokens == params.grpo.max_completion_length
    assert params.sft.max_length <= params.grpo.max_completion_length + PROMPT


@pytest.mark.parametrize("name", HARDWARE)
def test_the_head_and_the_table_quote_plan(name: str, recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its heading and the row of the recipe's strategy, whose micro-batch is twice the recipe's."""
    lines = [line.removeprefix("# ") for line in comment(name)]
    command = re.findall(r"`posttrain (plan [^`]+)`", " ".join(lines))[0]
    heading, row = (line for line in lines if re.match(r"(strategy|zero\d|lora) .*\d|strategy  ", line))
    (recipes / "params.yaml").unlink()
    assert main(shlex.split(command)) == 0
    assert {heading, row} <= set(capsys.readouterr().out.splitlines())
    told = dict(zip(*(re.split(r"\s{2,}", line) for line in (heading, row)), strict=True))
    assert int(told["micro-batch"]) == 2 * read_yaml(ROOT / f"recipes/{name}.yaml")["launch"]["micro_batch_size"]
    table = next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| `{name}`"))
    assert f"{told['total']} GiB" in table
    assert float(re.findall(r"([\d.]+) GPU-hours", table)[0]) == pytest.approx(float(told["GPU-h"]), rel=0.01)


def comment(name: str) -> list[str]:
    """The lines before the first key."""
    return (ROOT / f"recipes/{name}.yaml").read_text().partition("\n\n")[0].splitlines()


@pytest.mark.parametrize("name", HARDWARE)
def test_hub_names_have_a_commit(name: str, recipes: Path) -> None:
    params = applied(name)
    pinned = [params.model.revision]
    if not str(params.prepare.dataset).startswith("data/"):
        pinned.append(params.prepare.revision)
    assert all(re.fullmatch(r"[0-9a-f]{40}", str(commit)) for commit in pinned)


# ---------------------------------------------------------------------------------------------------------------------
# The tutorial's exercise


def test_grpo_only_is_the_tutorials_exercise(recipes: Path) -> None:
    params = applied("grpo-only")
    assert params.sft is None
    assert (params.model.name_or_path, params.prepare.dataset) == (
        *("models/base/sft_checkpoint", "data/source/math_100_samples"),
    )
    grpo = params.grpo
    assert (grpo.max_steps, grpo.num_generations, grpo.temperature, grpo.learning_rate) == (50, 8, 0.6, 1e-6)
    assert (grpo.epsilon, grpo.beta) == (0.2, 0.01)
    weights = {name: reward.weight for name, reward in params.rewards.named().items()}
    assert {name: weight for name, weight in weights.items() if weight} == {"accuracy": 1.0, "format": 0.1}


def test_the_tutorials_page_has_its_keys_and_the_recipes_paths(recipes: Path) -> None:
    page, params = (ROOT / "docs/tutorial.md").read_text(), applied("grpo-only")
    for key in (
        *("model_name_or_path", "dataset_name", "num_train_epochs", "max_steps", "num_generations", "temperature"),
        *("top_p", "max_completion_length", "reward_funcs", "reward_weights", "learning_rate", "clip_range"),
        *("kl_penalty", "output_dir"),
    ):
        assert re.search(rf"^\| [^|]*`{key}\b", page, re.M), key
    assert f"mv sft_checkpoint {params.model.name_or_path}" in page
    assert f"save_to_disk('{params.prepare.dataset}')" in page


# ---------------------------------------------------------------------------------------------------------------------
# R1's traces


def test_r1s_verified_traces_are_what_sft_imitates(recipes: Path) -> None:
    row = {
        "problem": "What is 1 + 1?",
        "answer": "2",
        "solution": "A person's.",
        "generations": ["<think>\nOne more.\n</think>\n\n\\boxed{3}", "<think>\nTwo.\n</think>\n\n\\boxed{2}"],
        "is_reasoning_complete": [True, True],
        "correctness_math_verify": [False, True],
    }
    clone = Path("data/source/clone.jsonl")
    clone.parent.mkdir(parents=True)
    clone.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for name, solution in (("qwen-7b-zero3", row["generations"][1]), ("tutorial", row["solution"])):
        params = applied(name).prepare
        here = params.model_copy(update={"dataset": str(clone), "config": None, "revision": None})
        (found,) = load(here, "train", Path(name))
        assert found["solutions"] == [solution]


def test_recipes_share_the_commit_of_r1s_traces() -> None:
    names = ("tutorial", "openr1-distill-qwen-1.5b", "qwen-7b-zero3")
    sources = [read_yaml(ROOT / f"recipes/{name}.yaml")["prepare"] for name in names]
    assert len({(one["dataset"], one["config"], one["revision"]) for one in sources}) == 1
