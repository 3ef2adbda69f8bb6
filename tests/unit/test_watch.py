"""Probe and health monitor on a real trainer of a few steps: what they see, what they do, and what they leave alone."""

import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import TrainerCallback, set_seed

from posttrain.cli import main
from posttrain.errors import EXIT_WRONG_INPUT, InputError
from posttrain.grpo import samples as grpo_samples
from posttrain.grpo import trainer as grpo_trainer
from posttrain.grpo.health import RULES
from posttrain.grpo.watch import (
    closing_lines,
    health_metrics,
    hold_out,
    with_rng_preserved,
)
from posttrain.outputs.identity import identity
from posttrain.outputs.manifest import publish, require_complete
from posttrain.params.file import check_params, load_params, read_yaml
from posttrain.params.schema import Params
from posttrain.paths import GRPO_MODEL, GRPO_RESULTS, PARAMS, SFT_MODEL
from posttrain.rewards.scoring import Scoring
from posttrain.run_stage import work
from posttrain.training.divergence import Diverged
from posttrain.training.from_scratch import random_model, train_tokenizer
from posttrain.training.models import DTYPES, align_special_tokens
from posttrain.training.standstill import FEW
from posttrain.training.weights import trained
from tests.conftest import ParamsWith, params_of
from tests.trainers import VowelRewards, tiny_checkpoint

ROOT = Path(__file__).parents[2]
ROWS = [{"id": str(x), "problem": f"Solve: 3x - 5 = {3 * x - 5}", "answer": f"x = {x}"} for x in range(2, 10)]
Build = Callable[..., "Run"]


class Trained(grpo_trainer.Trainer):
    """The real probe runs; its answer is replaced, because a random model solves nothing."""

    solved: ClassVar = [0.5, 1.0, 0.25, 1.0, 0.0, 0.0]

    def solve_probe(self) -> float:
        torch.rand(3)  # and it may even draw
        assert super().solve_probe() == 0
        return self.solved[len(self.probe.values)]


class Unwatched(grpo_trainer.Trainer):
    def watchers(self) -> list[TrainerCallback]:
        return [self.curve]


class Run:
    """A trainer of a tiny model, whose `accuracy` varies."""

    def __init__(
        self, params: Params, folder: Path, callbacks: list[TrainerCallback], watched: bool, scoring: Scoring
    ) -> None:
        set_seed(params.seed)
        probed, rows = hold_out(ROWS, 2)
        tokenizer = train_tokenizer([row["problem"] + "\n" + row["answer"] for row in ROWS], 384)
        self.trainer = (Trained if watched else Unwatched)(
            params,
            folder / "model",
            tokenizer,
            VowelRewards(scoring, rows, 4),
            grpo_trainer.trainer_config(params, folder / "trainer"),
            probed=probed,
            callbacks=callbacks,
        )
        self.curve, self.probe, self.health = self.trainer.curve, self.trainer.probe, self.trainer.health

    def train(self) -> dict[str, Any]:
        self.trainer.train()
        return self.trainer.finalize()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in trained(self.trainer.model).items()}


class Record(TrainerCallback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self.rates: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.after[0] = {name: value.detach().clone() for name, value in trained(model).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any) -> None:
        self.after[state.global_step] = {name: value.detach().clone() for name, value in trained(model).items()}
        self.rates.append(optimizer.param_groups[0]["lr"])


class Spoil(TrainerCallback):
    """Puts a number into what is logged at some step."""

    def __init__(self, step: int, **logs: float) -> None:
        self.step, self.logs = step, logs

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and state.global_step >= self.step:
            logs.update(self.logs)


@pytest.fixture(scope="module")
def scoring() -> Iterator[Scoring]:
    params = params_of({})
    with Scoring(params.rewards, params.verifier, workers=1) as scoring:
        yield scoring


@pytest.fixture
def build(tmp_path: Path, scoring: Scoring) -> Build:
    def build(
        changes: dict[str, Any] | None = None, callbacks: list[TrainerCallback] | None = None, watched: bool = True
    ) -> Run:
        data = read_yaml(ROOT / "params.yaml")
        small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
        data["model"]["scratch"] |= small
        data["grpo"] |= {"max_steps": 6, "warmup_steps": 0, "learning_rate": 0.01, "prompts_per_step": 2}
        data["grpo"] |= {"num_generations": 4, "max_completion_length": 8, "lr_scheduler_type": "constant"}
        data["grpo"]["probe"] = {"problems": 2, "every_steps": 1}
        data["grpo"]["health"] |= {"window": 2}
        for name in set(RULES) - {"not_finite"}:
            data["grpo"]["health"][name] = {"action": "off"}
        for dotted, value in (changes or {}).items():
            section, _, key = dotted.rpartition(".")
            health = data["grpo"]["health"]
            target = data["grpo"] if not section else health if section == "health" else health.setdefault(section, {})
            target[key] = value
        params = check_params(data, Path("params.yaml"))
        if not (tmp_path / "model").is_dir():
            set_seed(1)
            tiny_checkpoint(params, ROWS, tmp_path / "model")
        return Run(params, tmp_path, callbacks or [], watched, scoring)

    return build


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------------------------------------------------------------


def test_the_probe_is_held_out_by_a_hash() -> None:
    probed, rest = hold_out(ROWS, 3)
    assert (len(probed), len(rest)) == (3, 5)
    assert sorted(row["id"] for row in (*probed, *rest)) == [row["id"] for row in ROWS]
    backwards, _ = hold_out(ROWS[::-1], 3)
    assert {row["id"] for row in backwards} == {row["id"] for row in probed}
    assert hold_out(ROWS, 0) == ([], ROWS)
    assert {row["id"] for row in probed} < {row["id"] for row in hold_out(ROWS, 4)[0]}  # a larger probe keeps these
    with pytest.raises(InputError, match=r"grpo\.probe\.problems"):
        hold_out(ROWS, 8)
    with pytest.raises(InputError, match="without a gold"):
        hold_out([{"id": row["id"], "problem": row["problem"]} for row in ROWS], 2)


def test_watching_changes_no_bit_of_the_run(build: Build) -> None:
    watched = build({"not_finite.action": "stop", "kl_divergence.action": "rollback", "kl_divergence.above": 2.0})
    watched.train()
    alone = build(watched=False)
    alone.trainer.train()
    assert len(alone.curve.rows) == 6
    columns = [{name: v for name, v in row.items() if name != "probe/accuracy"} for row in watched.curve.rows]
    assert columns == alone.curve.rows
    assert equal(watched.weights(), alone.weights())
    assert [row["probe/accuracy"] for row in watched.curve.rows] == [0.5, 1.0, 0.25, 1.0, 0.0, 0.0]
    assert all("probe/accuracy" not in row for row in alone.curve.rows)


def test_a_probe_puts_mode_and_generators_back(build: Build) -> None:
    model = build().trainer.model.train()
    before = torch.get_rng_state()
    assert with_rng_preserved(lambda: float(torch.rand(1) * 0 + model.eval().training), model) == 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_weights_by_the_probe_are_published(build: Build) -> None:
    record = Record()
    run = build({"publish": "best"}, [record])
    outcome = run.train()
    assert outcome["steps"] == {"asked": 6, "trained": 6, "published": 4}  # the later of the two that solved all
    assert equal(run.weights(), record.after[4])
    assert not equal(record.after[4], record.after[6])
    assert health_metrics(outcome)["published_step"] == 4
    assert closing_lines(outcome) == ["publishes step 4 of 6: probe/accuracy 1, the best"]
    assert json.loads(json.dumps(outcome)) == outcome


def test_the_last_weights_are_published_unless_params_say_best(build: Build) -> None:
    record = Record()
    run = build(None, [record])
    outcome = run.train()
    assert equal(run.weights(), record.after[6])
    assert "published_step" not in health_metrics(outcome)
    assert closing_lines(outcome) == []
    assert (health_metrics(outcome)["probe/accuracy_first"], health_metrics(outcome)["probe/accuracy"]) == (0.5, 0.0)


def test_a_probe_every_other_step(build: Build) -> None:
    run = build({"probe": {"problems": 2, "every_steps": 3}})
    run.train()
    assert [row["step"] for row in run.curve.rows if "probe/accuracy" in row] == [3, 6]


def test_a_warning_is_said_once_and_training_goes_on(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    run = build({"kl_divergence.action": "warn"}, [Spoil(2, kl=0.9)])
    outcome = run.train()
    assert [finding["rule"] for finding in outcome["findings"]] == ["kl_divergence"]
    shown = capsys.readouterr().out
    assert shown.count("grpo | health: step 2: kl_divergence: policy/kl_divergence 0.45, over 0.05.") == 1
    assert outcome["steps"]["trained"] == 6
    assert outcome["stopped_by"] is None
    assert health_metrics(outcome)["health/findings"] == 1


def test_a_stop_ends_training_early_and_says_so(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record()
    run = build({"kl_divergence.action": "stop"}, [record, Spoil(2, kl=0.9)])
    outcome = run.train()
    assert outcome["steps"] == {"asked": 6, "trained": 2, "published": 2}
    assert outcome["stopped_by"] == "kl_divergence"
    assert equal(run.weights(), record.after[2])
    assert health_metrics(outcome)["stopped_at_step"] == 2
    assert "STOPPED after 2 of 6 steps by health rule kl_divergence" in closing_lines(outcome)[0]
    assert "STOPPED by kl_divergence" in capsys.readouterr().out


class Poison(TrainerCallback):
    """Spoils the weights once, as a gradient that is no number does."""

    def __init__(self, step: int) -> None:
        self.step: int | None = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.now = state.global_step == self.step
        if self.now:
            next(model.parameters()).data.fill_(float("nan"))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and self.now:
            logs["grad_norm"] = float("nan")


def test_lost_weights_end_the_run_with_the_name_of_the_first(build: Build) -> None:
    run = build({}, [Poison(5)])
    with pytest.raises(Diverged, match=r"step 5\n.*health rule not_finite: .*embed_tokens.weight") as caught:
        run.train()
    assert caught.value.exit_code == EXIT_WRONG_INPUT
    assert [row["step"] for row in run.curve.rows] == [1, 2, 3, 4, 5]


def test_lost_weights_are_noticed_between_two_rows(build: Build) -> None:
    run = build({"logging_steps": 3, "probe": {"problems": 2, "every_steps": 3}}, [Poison(4)])
    with pytest.raises(Diverged):  # a step more, and sampling from them would raise
        run.train()
    assert [row["step"] for row in run.curve.rows] == [3, 4]


class Enlarge(TrainerCallback):
    """Finite weights that no model computes with."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        for value in model.parameters():
            value.data.mul_(1e30)


def test_weights_that_overflow_end_the_run_before_torch_samples_from_them(build: Build) -> None:
    run = build({}, [Enlarge()])
    with pytest.raises(Diverged, match=r"step 1\n.*log-probabilities"):
        run.train()


class Explode(TrainerCallback):
    """An infinite gradient, before the optimizer takes it."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step == 2:
            self.hook = model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
        elif state.global_step == 3:
            self.hook.remove()


def test_a_lost_gradient_ends_the_run_before_the_step_is_taken(build: Build) -> None:
    record = Record()
    run = build({}, [record, Explode()])
    with pytest.raises(Diverged, match=r"step 3\n.*gradient norm inf; .* in 1 gradient, first model.norm.weight"):
        run.train()
    assert equal(run.weights(), record.after[2])


def test_a_rollback_gets_over_a_lost_gradient(build: Build) -> None:
    run = build({"not_finite.action": "rollback"}, [Explode()])
    outcome = run.train()
    assert [(rollback["step"], rollback["to_step"]) for rollback in outcome["rollbacks"]] == [(3, 2)]
    assert all(math.isfinite(row["loss"]) for row in run.curve.rows)
    assert all(bool(value.isfinite().all()) for value in run.weights().values())


@pytest.mark.parametrize("action", ["warn", "off"])
def test_lost_numbers_cannot_be_let_pass(action: str, params_with: ParamsWith) -> None:
    with pytest.raises(InputError, match="not_finite"):
        params_with({"grpo.health.not_finite": {"action": action}})


def test_a_rollback_gets_over_lost_weights(build: Build) -> None:
    run = build({"not_finite.action": "rollback"}, [Poison(3)])
    outcome = run.train()
    assert [(rollback["step"], rollback["to_step"]) for rollback in outcome["rollbacks"]] == [(3, 2)]
    assert outcome["steps"] == {"asked": 6, "trained": 6, "published": 6}
    assert all(bool(value.isfinite().all()) for value in run.weights().values())


def test_a_rollback_goes_back_two_windows_and_halves_the_learning_rate(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    # KL 5 from step 4 on: seen at the window of steps 3 and 4. Copies are of steps 0, 2: back to 0.
    record = Record()
    changes = {"kl_divergence.action": "rollback", "kl_divergence.above": 2.0}
    run = build(changes, [record, Spoil(4, kl=5.0)])
    outcome = run.train()
    steps = [(rollback["step"], rollback["to_step"]) for rollback in outcome["rollbacks"]]
    assert steps == [(4, 0), (6, 0)]  # again after a full window
    assert record.rates == [0.01, 0.01, 0.01, 0.01, 0.005, 0.005]
    assert equal(run.weights(), record.after[0])
    assert run.trainer.optimizer.param_groups[0]["lr"] == 0.0025
    assert "ROLLED BACK by kl_divergence from step 4 to the weights of step 0" in capsys.readouterr().out
    # Adam's moments are those of steps 5 and 6 only; the second rollback emptied them.
    assert len(run.trainer.optimizer.state) == 0
    assert [finding["step"] for finding in outcome["findings"]] == [4, 6]


def test_too_many_rollbacks_stop_the_run(build: Build) -> None:
    changes = {"kl_divergence.action": "rollback", "kl_divergence.above": 2.0, "health.max_rollbacks": 1}
    run = build(changes, [Spoil(1, kl=5.0)])
    outcome = run.train()
    assert len(outcome["rollbacks"]) == 1
    assert outcome["stopped_by"] == "kl_divergence"
    assert outcome["steps"]["trained"] == 4


def test_the_state_of_both_goes_through_a_checkpoint(build: Build, tmp_path: Path) -> None:
    run = build({"publish": "best", "kl_divergence.action": "rollback"}, [Spoil(3, kl=0.9)])
    run.train()
    fresh = build({"publish": "best", "kl_divergence.action": "rollback"})
    for old, new in ((run.probe, fresh.probe), (run.health, fresh.health)):
        torch.save(old.resume_state(), tmp_path / "state.pt")
        new.load_resume_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.probe.values == run.probe.values
    assert fresh.probe.best is not None
    assert run.probe.best is not None
    assert equal(fresh.probe.best.tensors, run.probe.best.tensors)
    assert fresh.health.findings == run.health.findings
    assert fresh.health.rollbacks == run.health.rollbacks
    assert fresh.health.kept.maxlen == 2
    assert [weights.step for weights in fresh.health.kept] == [weights.step for weights in run.health.kept]
    assert fresh.health.monitor.state() == run.health.monitor.state()


def test_the_probe_counts_no_verdict_as_not_solved(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build()
    monkeypatch.setattr(grpo_samples, "judge", lambda texts, golds, verifier: [{"accuracy": 1.0}, {"accuracy": None}])
    value = grpo_trainer.Trainer.solve_probe(run.trainer)
    assert value == statistics.fmean([1.0, 0.0])


@pytest.fixture
def small_stage(project: Path) -> Callable[[dict[str, Any]], Params]:
    """A workspace with prepared data and a random models/sft, whose params a test changes."""

    def build(changes: dict[str, Any]) -> Params:
        data = read_yaml(PARAMS)
        data["prepare"]["equations"] |= {"max_coefficient": 3, "max_solution": 4, "max_constant": 3}
        data["model"]["scratch"] |= {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
        data["grpo"] |= {"max_steps": 4, "warmup_steps": 0, "prompts_per_step": 2, "num_generations": 2}
        data["grpo"] |= {"max_completion_length": 8, "lr_scheduler_type": "constant"}
        data["launch"]["processes"] = 1
        for dotted, value in changes.items():
            section, _, key = dotted.partition(".")
            data[section][key] = value
        PARAMS.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
        params = load_params(PARAMS)
        assert main(["prepare"]) == 0
        set_seed(1)
        tokenizer = train_tokenizer([row["problem"] for row in ROWS], 384)
        model = random_model(params.model.scratch, tokenizer)
        align_special_tokens(model, tokenizer)
        model.to(DTYPES[params.model.dtype]).save_pretrained("made")
        tokenizer.save_pretrained("made")
        publish(Path("made"), SFT_MODEL, {"stage": "sft", "model": identity(Path("made"), params.prompts.system)})
        return params

    return build


LORA = {"r": 2, "alpha": 2, "dropout": 0.0, "target_modules": "all-linear", "quantize_4bit": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},  # a random model solves nothing, so all groups are flat
        {"model.lora": LORA},
        {"model.lora": LORA, "model.dtype": "bfloat16"},
    ],
    ids=["flat groups", "adapters still zero", "adapters of bfloat16"],
)
def test_a_run_that_moved_no_weight_says_so_as_its_result(
    small_stage: Callable[..., Params], changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    small_stage({"rewards.tag_count": {"weight": 0.0}, **changes})  # a random model writes a tag now and then
    assert main(["grpo"]) == 0
    *_, said, _ = capsys.readouterr().out.splitlines()
    assert said.startswith("grpo | NO WEIGHT MOVED: ")
    metrics = json.loads((GRPO_RESULTS / "metrics.json").read_text(encoding="utf-8"))
    health = json.loads((GRPO_RESULTS / "health.json").read_text(encoding="utf-8"))
    assert metrics["weights_changed_frac"] == health["weights_changed_frac"] == 0
    assert "**NO WEIGHT MOVED: " in (GRPO_MODEL / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("dtype", "moved"), [("bfloat16", False), ("float32", True)])
def test_updates_below_the_resolution_of_the_weights_are_noticed(
    small_stage: Callable[..., Params], dtype: str, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `posttrain check` refuses, looked at by its outcome."""
    params = small_stage({"model.dtype": dtype, "grpo.learning_rate": 1e-7})
    monkeypatch.setattr("stages.grpo.BatchRewards", VowelRewards)
    work("grpo", params)
    frac = json.loads((GRPO_RESULTS / "metrics.json").read_text(encoding="utf-8"))["weights_changed_frac"]
    assert (frac > 0.9) is moved
    assert (frac < FEW) is not moved


def test_a_stopped_stage_publishes_a_usable_model_and_hides_nothing(
    project: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model solves nothing: after a window without any right answer the stage stops."""
    shutil.copy(root / "dvc.yaml", project)  # the fingerprint of checkpoints reads it
    data = read_yaml(PARAMS)
    data["prepare"]["equations"] |= {"max_coefficient": 3, "max_solution": 4, "max_constant": 3}
    data["model"]["scratch"] |= {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    data["grpo"] |= {"max_steps": 6, "warmup_steps": 0, "prompts_per_step": 2, "num_generations": 2}
    data["grpo"] |= {"max_completion_length": 8, "probe": {"problems": 3, "every_steps": 1}}
    data["grpo"]["health"] |= {"window": 3, "constant_reward": {"action": "stop"}}
    data["launch"]["processes"] = 1
    PARAMS.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    params = load_params(PARAMS)
    assert main(["prepare"]) == 0
    tokenizer = train_tokenizer([row["problem"] for row in ROWS], 384)
    model = random_model(params.model.scratch, tokenizer)
    align_special_tokens(model, tokenizer)
    model.save_pretrained("made")
    tokenizer.save_pretrained("made")
    made = Path("made")
    publish(made, SFT_MODEL, {"stage": "sft", "model": identity(made, params.prompts.system)})
    capsys.readouterr()

    assert main(["grpo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stopped = "grpo | STOPPED after 3 of 6 steps by health rule constant_reward; the weights are "
    assert any(line.startswith(stopped) for line in lines[-3:])
    assert any(
        line.startswith("grpo | NO WEIGHT MOVED") for line in lines[-3:]
    )  # equal rewards have no gradient at all
    assert (
        sum(line.startswith("grpo | health: step 3: constant_reward: reward/accuracy 0 in every") for line in lines)
        == 1
    )
    assert any(line.startswith("grpo | warn  too few generations per prompt | ") for line in lines)
    metrics = json.loads((GRPO_RESULTS / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["stopped_at_step"], metrics["published_step"], metrics["probe/accuracy"]) == (3, 3, 0)
    manifest = require_complete(GRPO_MODEL, "grpo")
    assert manifest["stopped_by"] == "constant_reward"
    assert manifest["steps"] == {"asked": 6, "trained": 3, "published": 3}
    health = json.loads((GRPO_RESULTS / "health.json").read_text(encoding="utf-8"))
    assert health["findings"][0]["rule"] == "constant_reward"
    assert [probe["step"] for probe in health["probe"]] == [1, 2, 3]
    assert "probe/accuracy" in (GRPO_RESULTS / "curve.tsv").read_text(encoding="utf-8").split("\n")[0]
    assert main(["chat", "--ask", "Solve: 3x = 6"]) == 0  # the model can be used
