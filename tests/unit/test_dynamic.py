"""Dynamic sampling: which groups are replaced, by what and at what cost, and that the batch stays aligned."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.grpo.curve import GRPOCurve
from posttrain.grpo.dynamic import SparePrompts, flat_groups, order, totals, without_spread
from posttrain.grpo.health import Monitor, unselected
from posttrain.grpo.trainer import Trainer, to_dataset, trainer_config
from posttrain.params.schema import Params
from posttrain.prompts import Message, prompt_messages
from posttrain.training.trl import GenerationBatch, GRPOTrainer
from tests.conftest import params_of
from tests.trainers import FixedRewards, Reward, tiny_checkpoint

ROOT = Path(__file__).parents[2]
ROWS = [{"id": str(x), "problem": "Solve: " + "x + " * x + f"3 = {x}", "answer": f"x = {x}"} for x in range(1, 13)]
SIZE, GROUPS = 4, 3
NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "flat"),  # groups of 2
    [
        ([[1.0], [1.0], [0.0], [1.0]], [0]),
        ([[1.0], [1.0 + 1e-10], [0.0], [1e-8]], [0]),
        ([[NAN], [1.0], [NAN], [NAN]], [0, 1]),  # what has no verdict differs from nothing
        ([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 2.0]], [1]),  # one column with spread is enough
        ([[0.0, NAN], [1.0, NAN], [NAN, 2.0], [0.0, 2.0]], [1]),
    ],
)
def test_a_group_has_spread_if_two_scores_differ(scores: list[list[float]], flat: list[int]) -> None:
    assert without_spread(torch.tensor(scores, dtype=torch.float64), 2) == flat


def test_totals_are_weighted_and_missing_without_any_score() -> None:
    rewards = torch.tensor([[1.0, 1.0], [0.0, NAN], [NAN, NAN]])
    found = totals(rewards, torch.tensor([1.0, 0.5])).tolist()
    assert found[:2] == [1.5, 0.0]
    assert found[2] != found[2]


def test_spare_prompts_take_every_problem_once_an_epoch_and_go_on_where_they_were() -> None:
    spare, again = SparePrompts(5, 1, 1), SparePrompts(5, 1, 1)
    drawn = spare.draw(3) + spare.draw(4) + spare.draw(3)
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5))
    assert order(50, 1, 0) != order(50, 1, 1) != order(50, 2, 1)
    again.load_resume_state({"drawn": 7})
    assert again.draw(3) == drawn[7:]
    assert again.resume_state() == spare.resume_state()


def test_rewards_of_kept_groups_do_not_reach_the_monitor() -> None:
    row = {"step": 1.0, "reward/accuracy": 0.5, "sampling/reward/accuracy": 0.98, "sampling/generated": 9.0}
    assert unselected(row)["reward/accuracy"] == 0.98
    assert unselected({"reward/accuracy": 0.5}) == {"reward/accuracy": 0.5}


def test_timeouts_are_a_share_of_all_that_was_generated() -> None:
    params = params_of({})  # 128 completions a step, warns from 5 %
    healthy = {"reward/accuracy": 0.5, "reward/verifier_timeouts": 8.0}
    for row, count in ((healthy, 1), ({**healthy, "sampling/generated": 256.0}, 0)):
        monitor = Monitor(params)
        found = [finding.rule for step in range(10) for finding in monitor.observe({"step": step, **row})]
        assert found.count("verifier_timeouts") == count


# ---------------------------------------------------------------------------------------------------------------------
# A tiny random model, and rewards whose spread is known


@pytest.fixture(scope="module")
def params() -> Params:
    full = params_of({})
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    model = full.model.model_copy(update={"scratch": full.model.scratch.model_copy(update=small)})
    changes: dict[str, Any] = {"max_steps": 3, "warmup_steps": 0, "learning_rate": 0.01, "max_completion_length": 8}
    tuned = full.grpo.model_copy(update={**changes, "prompts_per_step": GROUPS, "num_generations": SIZE})
    rewards = full.rewards.model_copy(update={"format": None, "tag_count": None})
    return full.model_copy(update={"grpo": tuned, "model": model, "rewards": rewards})


@pytest.fixture(scope="module")
def checkpoint(params: Params, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("dynamic") / "model"
    torch.manual_seed(0)
    return path, tiny_checkpoint(params, ROWS, path)


def spread_of(solved: Callable[[int], bool]) -> Reward:
    """1 for every completion of a solved problem; of others for those of odd place in their group."""

    def rewards(completions: list[Any], number: list[int], **_: Any) -> list[float | None]:
        return [1.0 if solved(n) else float(place % 2) for place, n in enumerate(number)]

    return rewards


class Recorder(Trainer):
    """Keeps what was generated, and what TRL then works on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rounds: list[list[tuple[int, list[int]]]] = []
        self.batches: list[tuple[list[int], dict[str, Any]]] = []
        super().__init__(*args, **kwargs)

    def roll_out(self, examples: list[dict[str, Any]]) -> Any:
        batch = super().roll_out(examples)
        self.rounds.append([(rollout.example["number"], rollout.ids) for rollout in batch.rollouts])
        return batch

    def generate(self, prompts: list[list[Message]]) -> Any:
        self.asked = prompts
        return super().generate(prompts)

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super().generate_and_score(inputs)
        problems = [row["problem"] for row in ROWS]
        self.batches.append(([problems.index(prompt[-1]["content"]) for prompt in self.asked], output))
        return output


def trainer(
    kind: type[Trainer],
    params: Params,
    checkpoint: tuple[Path, Any],
    folder: Path,
    reward: Reward,
    rounds: int,
    **config: Any,
) -> Any:
    path, tokenizer = checkpoint
    arguments = trainer_config(params, folder / "trainer")
    for name, value in config.items():
        setattr(arguments, name, value)
    dynamic = params.grpo.dynamic_sampling.model_copy(update={"max_rounds": rounds})
    asked = params.model_copy(update={"grpo": params.grpo.model_copy(update={"dynamic_sampling": dynamic})})
    return kind(asked, path, tokenizer, FixedRewards({"accuracy": reward}, ROWS, SIZE), arguments)


def plain_trainer(params: Params, checkpoint: tuple[Path, Any], folder: Path, reward: Reward) -> Any:
    """TRL's own, with completions from where the stage has them, and the curve."""
    path, tokenizer = checkpoint
    curve = GRPOCurve(["accuracy"], lambda: GenerationBatch.of(made))
    reward.__name__ = "accuracy"
    made = GRPOTrainer(
        model=str(path),
        reward_funcs=[reward],
        args=trainer_config(params, folder / "trainer"),
        train_dataset=to_dataset(ROWS, params),
        processing_class=tokenizer,
        callbacks=[curve],
    )
    made.curve = curve
    return made


def trained(made: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    made.train()
    return made.curve.rows, {name: value.detach().clone() for name, value in made.model.named_parameters()}


def groups_of(rows: list[tuple[int, list[int]]]) -> list[tuple[int, list[list[int]]]]:
    """(problem, token ids) of each group."""
    groups = [rows[start : start + SIZE] for start in range(0, len(rows), SIZE)]
    assert all(len({number for number, _ in group}) == 1 for group in groups)
    return [(group[0][0], [ids for _, ids in group]) for group in groups]


def masked(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


def test_flat_groups_are_replaced_in_order_and_the_batch_stays_aligned(
    params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    solved = {number for number in range(len(ROWS)) if number % 3}  # two of three problems teach nothing
    made = trainer(Recorder, params, checkpoint, tmp_path, spread_of(solved.__contains__), 2)
    rows, _ = trained(made)
    rounds = iter(made.rounds)
    spare = SparePrompts(len(ROWS), params.seed, 0)
    for (numbers, output), row in zip(made.batches, rows, strict=True):
        expected = groups_of(next(rounds))
        generated, taken, replaced = [number for number, _ in expected], 0, 0
        while (flat := [place for place, (number, _) in enumerate(expected) if number in solved]) and taken < 2:
            fresh = groups_of(next(rounds))
            assert [number for number, _ in fresh] == spare.draw(len(flat))  # as many as are missing
            good = [group for group in fresh if group[0] not in solved]
            for place, group in zip(flat, good, strict=False):
                expected[place] = group  # the others stay where and as they were
            generated += [number for number, _ in fresh]
            taken, replaced = taken + 1, replaced + min(len(flat), len(good))

        assert numbers == [number for number, _ in expected for _ in range(SIZE)]
        assert masked(output["completion_ids"], output["completion_mask"]) == [ids for _, g in expected for ids in g]
        prompts = [prompt_messages(ROWS[number]["problem"], None) for number in numbers]
        assert masked(output["prompt_ids"], output["prompt_mask"]) == made._tokenize_prompts(prompts)[0]
        assert output["ref_per_token_logps"].shape == output["completion_ids"].shape
        assert output["num_items_in_batch"] == output["completion_mask"].sum()
        advantages = [0.0 if n in solved else (-0.5, 0.5)[i % 2] for i, n in enumerate(numbers)]
        assert output["advantages"].tolist() == advantages

        lengths = [len(ids) for _, group in expected for ids in group]
        assert row["completions/mean_length"] == pytest.approx(statistics.fmean(lengths))
        assert row["reward/accuracy"] == pytest.approx(statistics.fmean(0.5 + (n in solved) / 2 for n in numbers))
        assert row["reward/zero_std_frac"] == pytest.approx(statistics.fmean(n in solved for n in numbers))
        assert row["sampling/rounds"] == taken
        assert row["sampling/generated"] == len(generated) * SIZE
        assert row["sampling/replaced_frac"] == pytest.approx(replaced / GROUPS)
        sampled = statistics.fmean(0.5 + (n in solved) / 2 for n in generated)
        assert row["sampling/reward/accuracy"] == pytest.approx(sampled)
        assert row["sampling/reward/total"] == pytest.approx(sampled)
    assert next(rounds, None) is None
    assert sum(row["sampling/replaced_frac"] for row in rows) > 0


def test_the_budget_is_spent_on_what_cannot_be_helped_and_not_passed(
    params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    made = trainer(Recorder, params, checkpoint, tmp_path, spread_of(lambda _: True), 2)
    rows, _ = trained(made)
    assert [len(generated) for generated in made.rounds] == [GROUPS * SIZE] * 9  # 3 steps of one round and two more
    assert all(row["sampling/rounds"] == 2 and row["sampling/replaced_frac"] == 0 for row in rows)
    assert all(row["advantage/std"] == 0 for row in rows)


def test_without_need_every_byte_is_as_without_dynamic_sampling(
    params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    reward = spread_of(lambda _: False)
    rows, weights = trained(trainer(Trainer, params, checkpoint, tmp_path, reward, 2))
    plain_rows, plain = trained(trainer(Trainer, params, checkpoint, tmp_path, reward, 0))
    assert [{n: v for n, v in row.items() if not n.startswith("sampling/")} for row in rows] == plain_rows
    assert any("sampling/" in name for name in rows[0])
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


@pytest.mark.parametrize("rounds", [0, 2])
def test_without_need_a_run_is_trls(rounds: int, params: Params, checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    """Up to rounding: TRL's own trainer computes a prompt once for each of its completions."""
    reward = spread_of((lambda _: False) if rounds else (lambda number: number % 2 == 0))
    rows, weights = trained(trainer(Trainer, params, checkpoint, tmp_path, reward, rounds))
    plain_rows, plain = trained(plain_trainer(params, checkpoint, tmp_path, reward))
    for row, other in zip(rows, plain_rows, strict=True):
        assert {name: row[name] for name in other} == pytest.approx(other, rel=1e-3, abs=1e-6)
    assert all(torch.allclose(weights[name], plain[name], atol=1e-3) for name in plain)


def test_equal_runs_are_equal_and_rounds_make_another(
    params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    reward = spread_of(lambda number: number % 2 == 0)
    runs = [
        trained(trainer(Trainer, params, checkpoint, tmp_path, reward, rounds, seed=seed))
        for rounds, seed in ((2, 1), (2, 1), (0, 1))
    ]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())
    assert any(not torch.equal(value, runs[2][1][name]) for name, value in runs[0][1].items())


@pytest.mark.parametrize(
    "config",
    [{"steps_per_generation": 2, "generation_batch_size": 2 * GROUPS * SIZE}, {"num_iterations": 2}],
)
def test_a_generation_batch_may_serve_several_steps(
    config: dict[str, int], params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    reward = spread_of(lambda number: number % 2 == 0)
    made = trainer(Recorder, params, checkpoint, tmp_path, reward, 4, **config)
    rows, _ = trained(made)
    assert len(made.batches) == 2  # of 3 steps
    size = config.get("generation_batch_size", GROUPS * SIZE)
    assert [len(output["advantages"]) for _, output in made.batches] == [size, size]
    assert ["sampling/generated" in row for row in rows] == [True, False, True]


def test_spread_in_one_reward_counts_where_each_is_normalised_by_itself(
    params: Params, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    rewards = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # the totals are 1
    made = trainer(Trainer, params, checkpoint, tmp_path, spread_of(bool), 1)
    made.reward_weights = torch.tensor([1.0, 1.0])
    assert flat_groups(made, rewards) == [0]
    made.multi_objective_aggregation = "normalize_then_sum"
    assert flat_groups(made, rewards) == []
    made.reward_weights = torch.tensor([0.0, 0.0])  # measured only
    assert flat_groups(made, rewards) == [0]
