"""GRPO's objective in the configured trainer: the tutorial's advantages, and each loss against its paper's formula."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOConfig, SFTConfig

from posttrain.commands.check import checks as check
from posttrain.errors import InputError
from posttrain.grpo import trainer as grpo_trainer
from posttrain.params.schema import Params
from posttrain.sft import trainer as sft_trainer
from tests.conftest import ParamsWith
from tests.trainers import tiny_trainer

Array = np.ndarray[Any, np.dtype[np.float64]]
ROWS = [{"id": str(x), "problem": f"Solve: 3x - 5 = {3 * x - 5}", "answer": f"x = {x}"} for x in range(2, 6)]
SMALL = {
    "model.scratch.num_hidden_layers": 1,
    "model.scratch.hidden_size": 16,
    "model.scratch.intermediate_size": 16,
    "rewards": {"accuracy": {"weight": 1.0}},
    "grpo.max_completion_length": 8,
    "grpo.prompts_per_step": 2,
    "grpo.num_generations": 4,
}


def trainer_with(
    params: Params, folder: Path, scores: Callable[..., list[float]] | None = None
) -> grpo_trainer.Trainer:
    """The stage's trainer on a random model; `scores` is its only reward."""
    trainer = tiny_trainer(params, ROWS, scores or (lambda completions, **_: [0.0] * len(completions)), folder)
    trainer.model.train()
    return trainer


# ---------------------------------------------------------------------------------------------------------------------
# The tutorial's advantages

TUTORIAL = [
    ([1.0, 0.0, 1.0, 0.0], [0.5, -0.5, 0.5, -0.5]),  # the tutorial prints +0.375 and -0.625, for a mean of 0.625
    ([0.9, 0.7, 0.8, 0.4], [0.2, 0.0, 0.1, -0.3]),
    ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]),  # an easy problem: nothing left to learn
    ([0.0, 0.0, 0.1, 0.0], [-0.025, -0.025, 0.075, -0.025]),  # a hard one: the best attempt counts
]


@pytest.mark.parametrize("first", [0, 2])
def test_the_tutorials_groups_have_its_advantages(first: int, params_with: ParamsWith, tmp_path: Path) -> None:
    groups = TUTORIAL[first : first + 2]
    rewards = [reward for group, _ in groups for reward in group]
    params = params_with(SMALL)
    trainer = trainer_with(params, tmp_path, lambda completions, **_: rewards)
    dataset = grpo_trainer.to_dataset(ROWS, params)
    batch = trainer.generate_and_score([dict(dataset[i]) for i in (0, 1) for _ in range(4)])
    expected = [advantage for _, group in groups for advantage in group]
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-7)
    assert trainer._metrics["train"]["reward"] == [pytest.approx(np.mean(rewards))]


# ---------------------------------------------------------------------------------------------------------------------
# Losses against the papers' formulas. All is float64 but TRL's fused head, whose log-probabilities are float32: both
# sides agree to 4e-7 in the loss and 2e-7 in the gradient, and to 2e-8 where no ratio is of a whole completion


def paper_loss(
    logp: Array, frozen: Array, old: Array, ref: Array, mask: Array, advantages: Array, grpo: dict[str, Any]
) -> float:
    """The loss, from log-probabilities (completions, tokens). `frozen` is `logp` where a paper stops the gradient."""
    low, high = grpo["epsilon"], grpo.get("epsilon_high") or grpo["epsilon"]
    A, lengths, kind = advantages[:, None], mask.sum(1), grpo["loss_type"]
    level = {"token": lambda x: x, "sequence": lambda x: ((x * mask).sum(1) / lengths)[:, None]}[grpo["level"]]
    r = np.exp(level(logp - old))
    if kind == "cispo":  # MiniMax-M1, arXiv:2506.13585, equation 4
        objective = np.minimum(np.exp(level(frozen - old)), high) * A * logp
    elif kind == "sapo":  # arXiv:2511.20347
        tau = np.where(A > 0, 1.0, 1.05)
        objective = 4 / tau / (1 + np.exp(-tau * (r - 1))) * A
    elif kind == "vespo":  # arXiv:2602.10693: the gamma weight of the whole completion's ratio
        w = np.exp(((frozen - old) * mask).sum(1))[:, None]
        k, lam = np.where(A >= 0, 2.0, 3.0), np.where(A >= 0, 3.0, 2.0)
        objective = w**k * np.exp(lam * (1 - w)) * A * logp
    else:  # PPO's clipping, element-wise: the smaller of both surrogates
        upper = np.minimum(r, grpo.get("delta", np.inf))
        objective = np.minimum(upper * A, np.clip(r, 1 - low, 1 + high) * A)
    kl = np.exp(ref - logp) - (ref - logp) - 1  # k3
    tokens = mask * (objective - grpo["beta"] * kl * (r if grpo.get("use_bias_correction_kl", True) else 1))
    return -{
        "grpo": lambda: (tokens.sum(1) / lengths).mean(),  # DeepSeekMath, arXiv:2402.03300
        "sapo": lambda: (tokens.sum(1) / lengths).mean(),
        "dapo": lambda: tokens.sum() / mask.sum(),  # arXiv:2503.14476
        "bnpo": lambda: tokens.sum() / mask.sum(),
        "cispo": lambda: tokens.sum() / mask.sum(),
        "vespo": lambda: tokens.sum() / mask.sum(),
        "dr_grpo": lambda: tokens.sum() / (len(mask) * grpo["max_completion_length"]),  # arXiv:2503.20783
        "luspo": lambda: tokens.sum(1).mean(),  # arXiv:2602.05261: GSPO times the length
    }[kind]()


def gradient(loss: Callable[[Array], float], logp: Array) -> Array:
    """By central differences."""
    step = 1e-6
    result = np.zeros_like(logp)
    for place in np.ndindex(logp.shape):
        moved = np.zeros_like(logp)
        moved[place] = step
        result[place] = (loss(logp + moved) - loss(logp - moved)) / (2 * step)
    return result


def fixed_batch(trainer: grpo_trainer.Trainer) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Eight completions of 1 to 8 tokens, and the model's log-probabilities of them: plain logits over the temperature.

    The old policy is up to a factor of 2 away, so that both signs of the advantage meet ratios within and beyond either
    end of the clip range.
    """
    draw = torch.Generator().manual_seed(1)
    vocabulary = trainer.model.config.vocab_size
    prompt = torch.randint(10, vocabulary, (8, 5), generator=draw)
    completion = torch.randint(10, vocabulary, (8, 8), generator=draw)
    lengths = torch.arange(1, 9)[torch.randperm(8, generator=draw)]
    mask = (torch.arange(8)[None] < lengths[:, None]).long()
    ids, attention = torch.cat([prompt, completion], 1), torch.cat([torch.ones_like(prompt), mask], 1)
    logits = trainer.model(input_ids=ids, attention_mask=attention).logits[:, 4:-1]
    logp = (logits / trainer.args.temperature).log_softmax(-1).gather(2, completion[:, :, None])[:, :, 0]
    noise = torch.rand(2, 8, 8, generator=draw, dtype=torch.float64) * 1.4 - 0.7
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5, 0.75, -0.25, 0.0, -0.3], dtype=torch.float64),
        "old_per_token_logps": logp.detach() + noise[0],
        "ref_per_token_logps": logp.detach() + noise[1],
        "num_items_in_batch": mask.sum(),
    }, logp


LOSSES: list[dict[str, Any]] = [
    {"loss_type": "grpo", "beta": 0.0},
    {"loss_type": "grpo"},
    {"loss_type": "grpo", "use_bias_correction_kl": False},
    {"loss_type": "grpo", "epsilon_high": 0.28, "delta": 1.5},
    {"loss_type": "grpo", "level": "sequence"},  # GSPO, arXiv:2507.18071
    {"loss_type": "dapo", "epsilon_high": 0.28},
    {"loss_type": "dr_grpo"},
    {"loss_type": "bnpo"},
    {"loss_type": "cispo", "epsilon_high": 1.5},
    {"loss_type": "sapo"},
    {"loss_type": "luspo", "level": "sequence"},
    {"loss_type": "vespo"},
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(map(str, loss.values())))
def test_the_trainers_loss_and_gradient_are_the_papers(
    loss: dict[str, Any], params_with: ParamsWith, tmp_path: Path
) -> None:
    keys = {"epsilon": 0.2, "beta": 0.3, "level": "token", "max_completion_length": 8} | loss
    further = {name: keys[name] for name in ("delta", "use_bias_correction_kl") if name in keys}
    named = {f"grpo.{name}": keys[name] for name in ("loss_type", "epsilon", "epsilon_high", "beta") if name in keys}
    level = {"grpo.importance_sampling_level": keys["level"], "grpo.trl": further}
    trainer = trainer_with(params_with(SMALL | named | level), tmp_path)
    trainer.model.double()
    trainer.current_gradient_accumulation_steps = 1
    batch, logp = fixed_batch(trainer)

    arrays = [batch[name].numpy() for name in ("old_per_token_logps", "ref_per_token_logps")]
    mask, advantages, now = (
        batch["completion_mask"].double().numpy(),
        batch["advantages"].numpy(),
        logp.detach().numpy(),
    )
    ratio, A = np.exp(now - arrays[0])[mask > 0], np.repeat(advantages, mask.sum(1).astype(int))
    for sign in (A > 0, A < 0):  # all that clipping distinguishes is in the batch
        assert (ratio[sign] > 1.6).any()
        assert (ratio[sign] < 0.8).any()
        assert ((ratio[sign] > 0.8) & (ratio[sign] < 1.2)).any()

    expected = partial(
        paper_loss, frozen=now, old=arrays[0], ref=arrays[1], mask=mask, advantages=advantages, grpo=keys
    )
    got = trainer.compute_loss(trainer.model, batch)
    assert got.item() == pytest.approx(expected(now), abs=1e-6)

    weights = [value for value in trainer.model.parameters() if value.requires_grad]
    slopes = torch.tensor(gradient(expected, now))
    wanted = torch.autograd.grad((slopes * logp).sum(), weights)
    gradients = torch.autograd.grad(got, weights)
    off = max((one - other).abs().max().item() for one, other in zip(gradients, wanted, strict=True))
    assert off < 1e-6
    assert max(value.abs().max().item() for value in gradients) > 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# Further options of TRL


def test_an_option_reaches_trl(params_with: ParamsWith, tmp_path: Path) -> None:
    further = {"delta": 4, "off_policy_mask_threshold": 0.5, "optim": "adafactor", "generation_kwargs": {"top_k": 5}}
    config = grpo_trainer.trainer_config(params_with({"grpo.trl": further}), tmp_path)
    assert {name: getattr(config, name) for name in further} == further
    assert sft_trainer.trainer_config(params_with({"sft.trl": {"loss_type": "dft"}}), tmp_path).loss_type == "dft"


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"sapo_temperatur_neg": 1.0}, "grpo.trl.sapo_temperatur_neg", "did you mean `sapo_temperature_neg`?"),
    ({"delta": "4"}, "grpo.trl.delta", "valid number"),
    ({"use_bias_correction_kl": 1}, "grpo.trl.use_bias_correction_kl", "valid boolean"),
    ({"beta": 0.1}, "grpo.trl.beta", "only options besides these"),
    ({"reward_weights": [1.0]}, "grpo.trl.reward_weights", "only options besides these"),
    ({"generation_batch_size": 8}, "grpo.trl.generation_batch_size", "only options besides these"),
    ({"save_steps": 8}, "grpo.trl.save_steps", "only options besides these"),
    ({"per_device_eval_batch_size": 8}, "grpo.trl.per_device_eval_batch_size", "only options besides these"),
    ({"optim": "adam_of_mine"}, "grpo.trl", "adam_of_mine"),
    ({"vllm_importance_sampling_clip_min": 4.0}, "grpo.trl", "must be less than"),
]


@pytest.mark.parametrize(("further", "where", "wanted"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_refused(
    further: dict[str, Any], where: str, wanted: str, params_with: ParamsWith, project: Path
) -> None:
    params = params_with({"grpo.trl": further})
    with pytest.raises(InputError, match="wanted") as caught:
        grpo_trainer.trainer_config(params, project)
    assert caught.value.where == f"params.yaml: {where}"
    assert wanted in caught.value.wanted


def test_the_check_refuses_what_the_stages_would(params_with: ParamsWith, project: Path) -> None:
    found = check.findings(params_with({"grpo.trl": {"beta": 0.1}, "sft.trl": {"packin": True}}))
    faults = {finding.where: finding.why for finding in found if finding.level == "fault"}
    assert list(faults) == ["params.yaml: grpo.trl.beta", "params.yaml: sft.trl.packin"]
    assert "did you mean `packing`?" in faults["params.yaml: sft.trl.packin"]
    assert not (project / ".posttrain").exists()


def test_everything_of_the_objective_can_be_set(params_with: ParamsWith) -> None:
    """What is neither a key of the section nor refused; a new TRL that adds one shows here."""
    from posttrain.training.trl_options import OWNED, OWNED_PREFIXES, types_of

    named = set(params_with({}).grpo.model_dump())
    free = {name for name in types_of(GRPOConfig) if name not in OWNED and not name.startswith(OWNED_PREFIXES)} - named
    objective = {
        "delta",
        "sapo_temperature_neg",
        "vespo_k_pos",
        "top_entropy_quantile",
        "entropy_coef",
        "sync_ref_model",
    }
    objective |= {"use_bias_correction_kl", "off_policy_mask_threshold", "top_k", "min_p", "repetition_penalty"}
    objective |= {
        "use_adaptive_entropy",
        "ref_model_mixup_alpha",
        "router_aux_loss_coef",
        "vllm_importance_sampling_mode",
    }
    assert objective <= free
    assert not {name for name in OWNED if name not in types_of(GRPOConfig) and name not in types_of(SFTConfig)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grpo.loss_type": "cispo"}, "cispo without epsilon_high"),
        ({"grpo.beta": 0.0, "grpo.trl": {"sync_ref_model": True}}, "no reference model"),
    ],
)
def test_an_objective_that_contradicts_itself_is_refused(
    changes: dict[str, Any], said: str, params_with: ParamsWith
) -> None:
    with pytest.raises(InputError, match=said):
        params_with(changes)


def test_levels_that_a_loss_is_not_made_for_are_named() -> None:
    made_for = {"luspo": "sequence", "vespo": "token", "dapo": "token", "cispo": "token", "grpo": "sequence"}
    other = {"sequence": "token", "token": "sequence"}
    for loss, level in made_for.items():
        assert check.loss_and_level(loss, level).level == "ok"
        assert check.loss_and_level(loss, other[level]).level == ("ok" if loss == "grpo" else "warn")
