"""The health monitor: every rule speaks on a sick curve, once, and keeps quiet on healthy ones."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.grpo.health import DIFFERENCE, RATIO, RULES, Finding, Monitor
from posttrain.params.file import load_params
from posttrain.params.schema import Params
from posttrain.reporting.results import read_curve

ROOT = Path(__file__).parents[2]
Row = dict[str, float]
STEPS = 120


def healthy(step: int) -> Row:
    """Accuracy from 0.3 to 0.9 in a straight line; the numbers of a run that goes well."""
    return {
        "step": step,
        "reward/accuracy": 0.3 + 0.6 * step / STEPS,
        "reward/format": 1.0,
        "reward/total": 0.45 + 0.6 * step / STEPS,
        "advantage/mean": 0.0,
        "advantage/std": 0.45 - 0.2 * step / STEPS,
        "policy/kl_divergence": 0.0002 * step,
        "policy/entropy": 0.4 - 0.002 * step,
        "loss": 0.0001,
        "grad_norm": 0.3,
        "reward/zero_std_frac": 0.2,
        "completions/mean_length": 60.0,
        "completions/truncated_frac": 0.01,
    }


def sick(**columns: Callable[[int], float]) -> list[Row]:
    """Healthy but for some columns, `reward_total` for reward/total."""
    named = {name.replace("_", "/", 1): column for name, column in columns.items()}
    named = {name.replace("grad/", "grad_"): column for name, column in named.items()}
    return [healthy(step) | {name: column(step) for name, column in named.items()} for step in range(1, STEPS + 1)]


def ramp(low: float, high: float) -> Callable[[int], float]:
    return lambda step: low + (high - low) * step / STEPS


SICK: dict[str, list[Row]] = {
    "not_finite": sick(policy_kl_divergence=lambda step: math.nan if step == 40 else 0.01),
    "exploding_gradients": sick(grad_norm=lambda step: 0.3 * 1.1**step),
    "kl_divergence": sick(policy_kl_divergence=ramp(0, 0.3)),
    "constant_reward": sick(reward_zero_std_frac=ramp(0.9, 1.02), reward_accuracy=ramp(0.3, 0.6)),
    "low_advantage_std": sick(advantage_std=ramp(0.3, 0), reward_accuracy=ramp(0.3, 0.6)),
    "high_advantage_std": sick(advantage_std=ramp(0.3, 1.5)),
    "reward_collapse": sick(reward_total=lambda step: 0.8 - 0.006 * abs(step - 10)),
    "flat_accuracy": sick(reward_accuracy=lambda step: 0.4 + 0.0001 * step),
    "entropy_collapse": sick(policy_entropy=lambda step: 0.4 * 0.95**step, reward_accuracy=ramp(0.3, 0.6)),
    "truncation": sick(completions_truncated_frac=ramp(0, 0.45), completions_mean_length=ramp(60, 80)),
    "probe_falls": sick(probe_accuracy=lambda step: 0.6 - 0.01 * max(0, step - 20)),
    "verifier_timeouts": sick(reward_verifier_timeouts=ramp(0, 30)),
    "mismatch": [row | {DIFFERENCE: 0.001 * row["step"], RATIO: 0.98} for row in sick()],
}
SICK["probe_falls"] = [  # probed every tenth step only
    row if row["step"] % 10 == 0 else {name: value for name, value in row.items() if name != "probe/accuracy"}
    for row in SICK["probe_falls"]
]


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def with_health(params: Params, **changes: Any) -> Params:
    health = params.grpo.health
    new = {
        name: getattr(health, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return params.model_copy(update={"grpo": params.grpo.model_copy(update={"health": health.model_copy(update=new)})})


def findings(params: Params, rows: list[Row]) -> list[Finding]:
    monitor = Monitor(params)
    return [finding for row in rows for finding in monitor.observe(row)]


def shipped_curve() -> list[Row]:
    columns = read_curve(ROOT / "results/grpo/curve.tsv", "grpo")
    count = len(columns["step"])
    return [{name: v for name, values in columns.items() if (v := values[i]) is not None} for i in range(count)]


def test_every_rule_has_a_sick_curve_and_params(params: Params) -> None:
    settings = {"window", "solved_accuracy", "max_rollbacks"}
    assert list(SICK) == list(RULES)
    assert set(RULES) == set(type(params.grpo.health).model_fields) - settings


@pytest.mark.parametrize("name", SICK)
def test_a_sick_curve_is_named_once(name: str, params: Params) -> None:
    found = findings(params, SICK[name])
    assert [finding.rule for finding in found] == [name]
    assert found[0].action == getattr(params.grpo.health, name).action
    assert found[0].saw
    assert found[0].why.endswith(".")
    assert found[0].do.endswith(".")


def test_a_healthy_curve_raises_no_alarm(params: Params) -> None:
    assert findings(params, sick()) == []


def test_the_shipped_run_raises_no_alarm(params: Params) -> None:
    rows = shipped_curve()
    assert len(rows) == params.grpo.max_steps
    assert findings(params, rows) == []


def test_rules_speak_at_the_row_worked_out_by_hand(params: Params) -> None:
    # KL is 0.0025 x step, so its mean over steps s-9..s is 0.0025 (s - 4.5): over 0.05 first at s = 25.
    assert [f.step for f in findings(params, SICK["kl_divergence"])] == [25]
    # 0.25 x step of 128 completions: 5 % of them are 6.4, which is the mean 0.25 (s - 4.5) first exceeded at s = 31
    assert [f.step for f in findings(params, SICK["verifier_timeouts"])] == [31]
    # No window is waited for when a number is no number.
    assert [f.step for f in findings(params, SICK["not_finite"])] == [40]
    # accuracy 0.4 + 0.0001 x step: flat as soon as there is a window 50 rows ago, at row 60
    assert [f.step for f in findings(params, SICK["flat_accuracy"])] == [60]
    # probes 0.6 (steps 10, 20), 0.5, 0.4, 0.3: 0.2 under the best at step 40, which alone may be noise
    assert [f.step for f in findings(params, SICK["probe_falls"])] == [50]


def test_no_signal_is_success_once_the_problems_are_solved(params: Params) -> None:
    solved = {"reward_accuracy": ramp(0.95, 1), "advantage_std": ramp(0.15, 0), "reward_zero_std_frac": ramp(0.9, 1.02)}
    entropy = {"policy_entropy": ramp(0.4, 0)}
    assert findings(params, sick(**solved, **entropy)) == []
    assert {f.rule for f in findings(params, sick(**{**solved, "reward_accuracy": ramp(0.3, 0.6)}, **entropy))} == {
        "low_advantage_std",
        "constant_reward",
        "entropy_collapse",
    }


def test_accuracy_of_zero_is_a_constant_reward_whatever_else_varies(params: Params) -> None:
    found = findings(params, sick(reward_accuracy=lambda step: 0.0))
    assert [f.rule for f in found] == ["constant_reward", "flat_accuracy"]
    assert "reward/accuracy 0 in every one of 10 rows" in found[0].saw


def test_a_symptom_is_not_said_after_its_cause(params: Params) -> None:
    dead = {"reward_zero_std_frac": lambda step: 1.0, "advantage_std": lambda step: 0.0}
    found = findings(params, sick(**dead, reward_accuracy=ramp(0.3, 0.6)))
    assert [f.rule for f in found] == ["constant_reward"]


def test_one_bad_step_is_no_alarm(params: Params) -> None:
    once = sick(
        policy_kl_divergence=lambda step: 0.4 if step == 50 else 0.001,
        advantage_std=lambda step: 0.0 if step == 60 else 0.3,
        grad_norm=lambda step: 40.0 if step == 70 else 0.3,
    )
    assert findings(params, once) == []


def test_a_format_weight_over_accuracys_is_named(params: Params) -> None:
    rewards = params.rewards.model_copy(update={"format": params.rewards.format.model_copy(update={"weight": 5.0})})
    heavy = params.model_copy(update={"rewards": rewards})
    assert "the format weight is too high: accuracy weighs 1, all else 5.05" in (
        findings(heavy, SICK["flat_accuracy"])[0].saw
    )
    assert "too high" not in findings(params, SICK["flat_accuracy"])[0].saw


def test_scaled_advantages_are_not_judged_by_their_size(params: Params) -> None:
    scaled = params.model_copy(update={"grpo": params.grpo.model_copy(update={"scale_rewards": "group"})})
    assert findings(scaled, SICK["high_advantage_std"]) == []


def test_truncation_without_growth_needs_half_of_the_completions(params: Params) -> None:
    assert findings(params, sick(completions_truncated_frac=lambda step: 0.45)) == []
    found = findings(params, sick(completions_truncated_frac=lambda step: 0.6))
    assert [f.rule for f in found] == ["truncation"]


def test_a_rule_that_is_off_is_silent(params: Params) -> None:
    quiet = with_health(params, kl_divergence={"action": "off"})
    assert findings(quiet, SICK["kl_divergence"]) == []


@pytest.mark.parametrize("name", SICK)
@pytest.mark.parametrize("cut", [1, 15, 39, 45, 90])
def test_a_resumed_monitor_says_the_same(name: str, cut: int, params: Params) -> None:
    whole = findings(params, SICK[name])
    before, after = Monitor(params), Monitor(params)
    found = [f for row in SICK[name][:cut] for f in before.observe(row)]
    after.load(json.loads(json.dumps(before.state())))
    found += [f for row in SICK[name][cut:] for f in after.observe(row)]
    assert found == whole
    assert after.state() == _state_after(params, SICK[name])


def _state_after(params: Params, rows: list[Row]) -> dict[str, Any]:
    monitor = Monitor(params)
    for row in rows:
        monitor.observe(row)
    return monitor.state()


def test_a_rollback_arms_the_rule_again_until_there_were_enough(params: Params) -> None:
    monitor = Monitor(with_health(params, kl_divergence={"action": "rollback"}))
    said = []
    for row in SICK["kl_divergence"]:
        for finding in monitor.observe(row):
            said.append((finding.step, finding.action))
            if finding.action == "rollback":
                monitor.rolled_back()
    # After a rollback a new window of 10 rows has to fill; two rollbacks are allowed.
    assert said == [(25, "rollback"), (35, "rollback"), (45, "stop")]


def test_the_rules_import_nothing_heavy() -> None:
    code = "import sys, posttrain.grpo.health; print(*{name.partition('.')[0] for name in sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(shown.stdout.split()) & {"torch", "transformers", "trl", "numpy", "datasets"}
