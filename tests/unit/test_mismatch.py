"""Train-inference mismatch: which ratio TRL makes of a sampler's log-probabilities, and who says so.

Real trainers of a tiny model. In place of vLLM transformers draws, and `generate` of the seam adds what vLLM reports
with `processed_logprobs`: those after temperature, top_p and top_k, computed from the model's own logits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from posttrain.commands.check.rollouts import reshaped, sampler
from posttrain.grpo.curve import MISMATCH
from posttrain.grpo.health import DIFFERENCE, RATIO
from posttrain.grpo.trainer import Trainer
from posttrain.params.schema import Params
from tests.conftest import ParamsWith
from tests.trainers import tiny_trainer, vowels

ROWS = [{"id": str(x), "problem": f"Solve: 3x - 5 = {3 * x - 5}", "answer": f"x = {x}"} for x in range(2, 6)]
LENGTH, TEMPERATURE = 8, 0.7
SMALL: dict[str, Any] = {
    "model.scratch.num_hidden_layers": 1,
    "model.scratch.hidden_size": 16,
    "model.scratch.intermediate_size": 16,
    "rewards": {"accuracy": {"weight": 1.0}},
    "grpo.max_steps": 2,
    "grpo.warmup_steps": 0,
    "grpo.learning_rate": 0.01,
    "grpo.prompts_per_step": 2,
    "grpo.num_generations": 4,
    "grpo.max_completion_length": LENGTH,
    "grpo.temperature": TEMPERATURE,
}


class Sampled(Trainer):
    """TRL with `use_vllm`, whose completions and log-probabilities are those of a sampler beside it."""

    error = 0.0
    """What the sampler's log-probabilities are off by."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_vllm = True
        self.kept: list[list[float]] = []
        """Mass of the tokens that were drawn from, by completion and token."""
        self.outputs: list[dict[str, Any]] = []

    def generate(self, prompts: list[Any]) -> Any:
        self.use_vllm = False  # or TRL would look for the engine
        drawn = list(super().generate(prompts))
        self.use_vllm = True
        pairs = [self.log_probabilities(*pair) for pair in zip(drawn[0], drawn[1], strict=True)]
        drawn[4] = [[value - self.error for value in values] for values, _ in pairs]
        self.kept += [kept for _, kept in pairs]
        return tuple(drawn)

    @torch.no_grad()
    def log_probabilities(self, prompt: list[int], completion: list[int]) -> tuple[list[float], list[float]]:
        """Those of the tokens under what is drawn from, and the mass of that in the whole softmax."""
        ids = torch.tensor([prompt + completion])
        logits = self.model(ids).logits[0, len(prompt) - 1 : -1].float() / self.temperature
        cut = LogitsProcessorList()
        if self.args.top_k:
            cut.append(TopKLogitsWarper(self.args.top_k))
        if self.args.top_p < 1:
            cut.append(TopPLogitsWarper(self.args.top_p))
        left = cut(ids, logits.clone())
        chosen = left.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        kept = torch.where(left.isinf(), 0.0, logits.softmax(-1)).sum(-1)
        return chosen.tolist(), kept.tolist()

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.outputs.append(super().generate_and_score(inputs))
        return self.outputs[-1]


@pytest.fixture
def trained(params_with: ParamsWith, tmp_path: Path) -> Callable[..., Sampled]:
    def build(changes: dict[str, Any], error: float = 0.0) -> Sampled:
        made = tiny_trainer(params_with(SMALL | changes), ROWS, vowels, tmp_path, Sampled)
        assert isinstance(made, Sampled)
        made.error = error
        made.train()
        return made

    return build


def products(trainer: Sampled, batch: int) -> torch.Tensor:
    """The kept mass of each completion of a batch, to the power of its length."""
    size = len(trainer.outputs[batch]["completion_ids"])
    kept = trainer.kept[batch * size : (batch + 1) * size]
    return torch.tensor([[torch.tensor(values).prod()] for values in kept])


# ---------------------------------------------------------------------------------------------------------------------
# What TRL makes of it


def test_the_whole_distribution_at_any_temperature_has_ratio_one(trained: Callable[..., Sampled]) -> None:
    made = trained({})
    for output in made.outputs:
        assert output["importance_sampling_ratio"].flatten().tolist() == pytest.approx([1.0] * 8, abs=1e-4)
    assert set(MISMATCH) <= set(made.curve.rows[0])
    assert made.curve.rows[0][DIFFERENCE] == pytest.approx(0, abs=1e-4)
    assert made.curve.rows[0][RATIO] == pytest.approx(1, abs=1e-4)
    assert made.health.findings == []


@pytest.mark.parametrize("changes", [{"grpo.top_p": 0.8}, {"grpo.trl": {"top_k": 20}}], ids=str)
def test_a_cut_distribution_weighs_a_completion_by_the_kept_mass_to_its_length(
    trained: Callable[..., Sampled], changes: dict[str, Any]
) -> None:
    made = trained(changes)
    weights = made.outputs[0]["importance_sampling_ratio"]
    assert weights.shape == (8, 1)
    assert torch.allclose(weights, products(made, 0), rtol=1e-3)
    assert weights.max() < 0.9
    assert made.curve.rows[0][RATIO] == pytest.approx(float(weights.mean()), rel=1e-3)
    assert sampler(made.params.grpo).level == "fault"


def test_with_a_ratio_for_each_token_it_is_the_mass_kept_there(trained: Callable[..., Sampled]) -> None:
    made = trained({"grpo.top_p": 0.8, "grpo.trl": {"vllm_importance_sampling_mode": "token_truncate"}})
    output = made.outputs[0]
    masks = output["completion_mask"].bool()
    for ratios, mask, kept in zip(output["importance_sampling_ratio"], masks, made.kept, strict=False):
        assert ratios[mask].tolist() == pytest.approx(kept, rel=1e-3)
    assert sampler(made.params.grpo).level == "warn"


def test_vespo_multiplies_them_all_the_same(trained: Callable[..., Sampled]) -> None:
    token = {"vllm_importance_sampling_mode": "token_truncate"}
    made = trained({"grpo.top_p": 0.8, "grpo.loss_type": "vespo", "grpo.trl": token})
    output = made.outputs[0]
    mask = output["completion_mask"]
    advantages = torch.ones(8, 1)
    factors = made.get_gamma_weights(
        advantages, torch.zeros_like(mask, dtype=torch.float32), mask, output["importance_sampling_ratio"]
    )
    weight = products(made, 0)
    assert torch.allclose(factors, torch.exp(3 + 2 * weight.log() - 3 * weight), rtol=1e-2)
    assert sampler(made.params.grpo).level == "fault"


def test_without_the_correction_nothing_is_weighed_and_nothing_is_seen(trained: Callable[..., Sampled]) -> None:
    made = trained({"grpo.top_p": 0.8, "grpo.trl": {"vllm_importance_sampling_correction": False}})
    assert "importance_sampling_ratio" not in made.outputs[0]
    assert not set(MISMATCH) & set(made.curve.rows[0])
    assert sampler(made.params.grpo).level == "warn"


# ---------------------------------------------------------------------------------------------------------------------
# Who says so


@pytest.mark.parametrize(
    ("error", "trl", "said"),
    [
        (0.02, {}, None),
        (0.2, {}, "sampling_logp_difference/mean 0.2, over 0.1"),
        (-0.2, {}, "sampling_logp_difference/mean 0.2, over 0.1"),
        (0.4, {}, "importance_sampling_ratio/mean 0"),  # e^(8 x 0.4) is over 3, so every completion is masked
        (0.04, {"vllm_importance_sampling_clip_max": 1.1}, "importance_sampling_ratio/mean 0, under 0.5"),
    ],
)
def test_wrong_log_probabilities_are_named(
    trained: Callable[..., Sampled], error: float, trl: dict[str, Any], said: str | None
) -> None:
    made = trained({"grpo.health.window": 2, "grpo.trl": trl}, error)
    row = made.curve.rows[0]
    assert row[DIFFERENCE] == pytest.approx(abs(error), abs=1e-3)
    found = [finding for finding in made.health.findings if finding.rule == "mismatch"]
    assert [finding.action for finding in found] == ["warn"] * (said is not None)
    if said is not None:
        assert said in found[0].saw


def test_a_run_without_vllm_has_no_such_column(params_with: ParamsWith, tmp_path: Path) -> None:
    made = tiny_trainer(params_with(SMALL), ROWS, vowels, tmp_path)
    made.train()
    made.curve.write(tmp_path / "curve.tsv")
    assert "sampling_logp" not in (tmp_path / "curve.tsv").read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"grpo.temperature": 0.7}, {}),
        ({"grpo.top_p": 0.95}, {"top_p": 0.95}),
        ({"grpo.trl": {"top_k": 50, "min_p": 0.1}}, {"top_k": 50, "min_p": 0.1}),
        ({"grpo.trl": {"top_k": 0, "min_p": None, "repetition_penalty": 1.0}}, {}),
        ({"grpo.trl": {"repetition_penalty": 1.1}}, {"repetition_penalty": 1.1}),
        ({"grpo.trl": {"generation_kwargs": {"top_p": 0.9}}}, {"top_p": 0.9}),
        ({"grpo.top_p": 0.9, "grpo.trl": {"generation_kwargs": {"top_p": 1.0, "top_k": -1}}}, {}),
        ({"grpo.trl": {"generation_kwargs": {"temperature": 0.1}}}, {"temperature": 0.1}),
        ({"grpo.trl": {"generation_kwargs": {"min_tokens": 5, "stop": ["x"]}}}, {"min_tokens": 5}),
        ({"grpo.trl": {"vllm_structured_outputs_regex": "a+"}}, {"vllm_structured_outputs_regex": "a+"}),
    ],
    ids=str,
)
def test_what_reshapes_the_distribution_is_found_wherever_it_is_written(
    changes: dict[str, Any], found: dict[str, Any], params_with: ParamsWith
) -> None:
    assert reshaped(params_with(changes).grpo) == found


def test_the_preflight_refuses_it_with_vllm_alone(params_with: ParamsWith, project: Path) -> None:
    from posttrain.commands.check.checks import findings

    def named(params: Params) -> list[str]:
        return [finding.level for finding in findings(params, "grpo") if finding.name == "one distribution"]

    assert named(params_with({"grpo.use_vllm": True, "grpo.top_p": 0.9})) == ["fault"]
    assert named(params_with({"grpo.use_vllm": True})) == ["ok"]
    assert named(params_with({"grpo.top_p": 0.9})) == []
