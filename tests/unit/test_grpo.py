"""The grpo stage: what reaches TRL, the tutorial's metric names, the advantages."""

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.generation.engine import generate
from posttrain.grpo import curve as grpo_curve
from posttrain.grpo import trainer as grpo_trainer
from posttrain.grpo.batch_rewards import BatchRewards, leave_out_undecided
from posttrain.params.schema import Params
from posttrain.prompts import completion_text
from posttrain.rewards.scoring import Scoring
from posttrain.training.trl import GenerationBatch
from tests.conftest import params_of
from tests.trainers import VowelRewards, tiny_checkpoint

ROOT = Path(__file__).parents[2]
ROWS = [{"id": str(x), "problem": f"Solve: 3x - 5 = {3 * x - 5}", "answer": f"x = {x}"} for x in range(2, 6)]


@pytest.fixture(scope="module")
def params() -> Params:
    """The shipped recipe, a good deal smaller."""
    full = params_of({})
    changes = {"max_steps": 2, "warmup_steps": 0, "learning_rate": 0.01, "prompts_per_step": 2, "num_generations": 4}
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    model = full.model.model_copy(update={"scratch": full.model.scratch.model_copy(update=small)})
    tuned = full.grpo.model_copy(update={**changes, "max_completion_length": 8})
    return full.model_copy(update={"grpo": tuned, "model": model})


def test_the_tutorials_objective_reaches_trl(params: Params, tmp_path: Path) -> None:
    config = grpo_trainer.trainer_config(params_of({}), tmp_path)
    assert (config.beta, config.epsilon, config.scale_rewards, config.num_generations) == (0.01, 0.2, "none", 16)
    assert config.reward_weights == [1.0, 0.1, 0.05]
    # 8 problems x 16 completions, whatever the split into passes
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 128
    assert config.generation_batch_size == 128


def test_fewer_sequences_per_pass_change_no_batch(params: Params, tmp_path: Path) -> None:
    launch = params.launch.model_copy(update={"micro_batch_size": 3})
    config = grpo_trainer.trainer_config(params.model_copy(update={"launch": launch}), tmp_path)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (2, 4)
    assert config.generation_batch_size == 8


@pytest.fixture(scope="module")
def scoring(params: Params) -> Iterator[Scoring]:
    with Scoring(params.rewards, params.verifier, workers=1) as scoring:
        yield scoring


def test_reward_function_scores_each_completion_against_its_own_gold(scoring: Scoring) -> None:
    right, wrong = completion_text("thoughts", "x = 5"), completion_text("thoughts", "x = 6")
    rows = [{"id": "a", "problem": "?", "answer": "x = 5"}, {"id": "b", "problem": "?", "answer": "x = 6"}]
    function = BatchRewards(scoring, rows, 4).function("accuracy")
    completions = [[{"role": "assistant", "content": text}] for text in (right, wrong, right)]
    scores = function(completions=completions, completion_ids=[[1], [1, 2], [1]], number=[0, 0, 1], prompts=[])
    assert scores == [1.0, 0.0, 0.0]
    assert function.__name__ == "accuracy"  # TRL names its metric after it


def test_a_batch_is_judged_once_however_many_rewards_look_at_it(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards, judged = BatchRewards(scoring, ROWS, 2), []
    completions_of = scoring.completions
    monkeypatch.setattr(scoring, "completions", lambda *batch: judged.append(batch) or completions_of(*batch))
    right = [[{"role": "assistant", "content": completion_text("thoughts", ROWS[0]["answer"])}]]
    for number, expected in ((0, 1.0), (1, 0.0)):
        batch = {"completions": right, "completion_ids": [[1]], "number": [number]}
        scores = {function.__name__: function(**batch) for function in rewards.functions()}
        assert scores == {"accuracy": [expected], "format": [1.0], "tag_count": [1.0]}
        assert rewards.count_undecided(right, [[1]], [number]) == 0
    assert len(judged) == 2


NAN = float("nan")


@pytest.mark.parametrize(
    ("rewards", "left"),  # two groups of two completions, two rewards
    [
        ([[1, 1], [0, 1], [1, 0], [0, 0]], [True, True, True, True]),
        ([[1, 1], [NAN, 1], [1, 0], [0, 0]], [True, False, True, True]),  # no verdict on one
        (
            [[NAN, 1], [NAN, 1], [1, 0], [0, 0]],
            [True, True, True, True],
        ),  # on none of the group: the other reward counts
        ([[NAN, NAN], [1, 1], [1, 0], [0, 0]], [False, True, True, True]),
        ([[NAN, NAN], [NAN, 1], [1, 0], [0, NAN]], [False, True, True, False]),
    ],
)
def test_a_completion_without_a_verdict_is_left_out(rewards: list[list[float]], left: list[bool]) -> None:
    before = torch.tensor(rewards, dtype=torch.float32)
    after = leave_out_undecided(before, 2)
    assert [not row.isnan().all() for row in after] == left
    assert torch.equal(after[left].nan_to_num(-1), before[left].nan_to_num(-1))


def one_missing(paid: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def accuracy(**batch: Any) -> list[Any]:
        return [None, *paid(**batch)[1:]]

    return accuracy


def test_two_steps_log_the_tutorials_names_and_move_every_parameter(
    params: Params, scoring: Scoring, tmp_path: Path
) -> None:
    torch.manual_seed(0)  # a few models say no vowel at all
    tokenizer = tiny_checkpoint(params, ROWS, tmp_path / "model")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()

    class OneWithoutScore(VowelRewards):
        """No score for one completion of each batch."""

        def function(self, name: str) -> Callable[..., list[Any]]:
            paid = super().function(name)
            return one_missing(paid) if name == "accuracy" else paid

    rewards = OneWithoutScore(scoring, ROWS, 4)
    config = grpo_trainer.trainer_config(params, tmp_path / "trainer")
    trainer = grpo_trainer.Trainer(params, tmp_path / "model", tokenizer, rewards, config)
    trainer.train()
    curve = trainer.curve

    assert [row["step"] for row in curve.rows] == [1, 2]
    assert {f"reward/{name}" for name in scoring.params} | set(grpo_curve.ALWAYS_SHOWN) <= set(curve.rows[-1])
    assert curve.rows[0]["reward/verifier_timeouts"] == 0  # the verifier had a verdict on all
    assert curve.rows[0]["policy/kl_divergence"] == pytest.approx(0, abs=1e-6)  # the policy is still the reference
    assert curve.rows[1]["policy/kl_divergence"] > 0
    # The learning rate is high, because gradients are tiny: a parameter that does not move is not trained at all.
    assert [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])] == []

    # The last batch again, by hand: reward minus the mean of its group of 4, and the deviation over all 8.
    total = [
        1.0 * a + 0.1 * f + 0.05 * t
        for a, f, t in zip(*(trainer.last_batch().rewards[name] for name in scoring.params), strict=True)
    ]
    assert math.isnan(total[0])
    groups = [total[1:4], total[4:]]  # the first has no score: it is in no mean, and nothing is learned from it
    advantages = [0.0, *(reward - statistics.fmean(group) for group in groups for reward in group)]
    assert trainer.last_batch().advantages == pytest.approx(advantages, abs=1e-6)
    assert curve.rows[1]["advantage/std"] == pytest.approx(statistics.pstdev(advantages), abs=1e-6)
    assert curve.rows[1]["advantage/mean"] == 0
    assert curve.rows[1]["advantage/std"] > 0


def test_completions_are_drawn_in_the_dtype_that_params_name(
    params: Params, scoring: Scoring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From weights of the step, in float32 and in bfloat16; the weights that are trained stay in float32."""
    asked: list[tuple[torch.dtype, torch.Tensor]] = []

    def seen(model: Any, *args: Any, **kwargs: Any) -> list[list[list[int]]]:
        asked.append((model.dtype, model.get_input_embeddings().weight.detach().float().clone()))
        return generate(model, *args, **kwargs)

    monkeypatch.setattr("posttrain.training.trl.generate", seen)
    tokenizer = tiny_checkpoint(params, ROWS, tmp_path / "model")
    for dtype in (None, "bfloat16"):
        asked.clear()
        mine = params.model_copy(update={"grpo": params.grpo.model_copy(update={"generation_dtype": dtype})})
        config = grpo_trainer.trainer_config(mine, tmp_path / "trainer")
        trainer = grpo_trainer.Trainer(mine, tmp_path / "model", tokenizer, VowelRewards(scoring, ROWS, 4), config)
        trainer.train()
        assert [one for one, _ in asked] == [torch.bfloat16 if dtype else torch.float32] * 2
        assert trainer.model.dtype == torch.float32
        assert not torch.equal(asked[0][1], asked[1][1])


def test_equal_rewards_count_as_equal_though_their_float32_mean_is_rounded() -> None:
    batch = GenerationBatch(  # two groups of eight, the first all 0.15 in total
        prompts=[],
        completions=[],
        rewards={"accuracy": [0.0] * 15 + [1.0], "format": [1.0] * 16, "tag_count": [1.0] * 16},
        advantages=[],
        weights=torch.tensor([1.0, 0.1, 0.05]),
        group_size=8,
    )
    totals = torch.tensor([0.1 + 0.05] * 8)
    assert totals.std() > 1e-8  # which is how TRL would tell
    assert grpo_curve.equal_groups_frac(batch) == 0.5


def no_batch() -> GenerationBatch:
    raise AssertionError("no step was logged")


def test_summary_takes_the_kl_divergence_over_the_last_half() -> None:
    curve = grpo_curve.GRPOCurve(["accuracy"], no_batch)
    curve.rows = [
        {"step": float(step), "policy/kl_divergence": 0.0 if step <= 10 else 0.02, "reward/accuracy": step / 20}
        for step in range(1, 21)
    ]
    summary = grpo_curve.summary(curve)
    assert summary["policy/kl_divergence"] == pytest.approx(0.02)
    assert summary["reward/accuracy_first"] == pytest.approx((0.05 + 0.10) / 2)  # steps 1 and 2 of 20
    assert summary["reward/accuracy"] == pytest.approx((0.95 + 1.0) / 2)  # steps 19 and 20
    assert "advantage/std" not in summary  # never logged here, so not claimed
