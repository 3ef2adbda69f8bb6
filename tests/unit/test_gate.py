"""The gate: what it asks of a gain, and that it asks it of the results of the present params, data and models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.errors import GateError, InputError
from posttrain.evaluation.gate import PARENTS, check_gate, passes
from posttrain.evaluation.statistics import Interval, Verdict
from posttrain.outputs.facts import Origin
from posttrain.outputs.manifest import MANIFEST, file_hashes, publish, write_json
from posttrain.params.schema import Params
from posttrain.paths import EVALUATE_RESULTS, GRPO_MODEL, PREPARED, SFT_MODEL
from tests.conftest import ParamsWith

METRICS = EVALUATE_RESULTS / "metrics.json"
GAIN = {"mean": 0.31, "low": 0.27, "high": 0.36, "p_value": 0.0001}


@pytest.fixture
def evaluated(project: Path, params_with: ParamsWith) -> Callable[[dict[str, Any]], Params]:
    """Data, models and an evaluation of theirs with GAIN, under the shipped params with changes."""

    def build(changes: dict[str, Any]) -> Params:
        params = params_with(changes)
        for stage, folder in PARENTS.items():
            made = project / "made" / stage
            made.mkdir(parents=True)
            (made / "model.safetensors").write_text(stage)
            publish(made, folder, {"stage": stage})
        shutil.copytree(Path(__file__).parents[2] / "requirements", "requirements")
        write_json(METRICS, {"gain": GAIN, "verdict": "improved"})
        record = Origin("evaluate", params).record
        write_json(EVALUATE_RESULTS / MANIFEST, record | {"files": file_hashes(EVALUATE_RESULTS)})
        return params

    return build


Evaluated = Callable[[dict[str, Any]], Params]


@pytest.mark.parametrize(
    ("mean", "low", "high", "verdict", "min_gain", "expected"),
    [
        (0.25, 0.1, 0.4, "improved", 0.2, True),
        (0.2, 0.1, 0.3, "improved", 0.2, True),  # exactly what was asked for
        (0.7 - 0.5, 0.1, 0.3, "improved", 0.2, True),  # 0.19999999999999996, and 0.2 for a person
        (0.25, 0.1, 0.4, "improved", 0.3, False),
        (0.25, -0.1, 0.6, "indistinguishable", 0.2, False),
        (0.0, -0.1, 0.1, "indistinguishable", 0.0, False),  # a gate asks for more than no change
        (-0.3, -0.4, -0.2, "regressed", None, True),  # off
        (-0.01, -0.03, 0.01, "indistinguishable", -0.05, True),  # nothing lost that counts
        (-0.01, -0.06, 0.04, "indistinguishable", -0.05, False),  # more may be lost
        (-0.02, -0.03, -0.01, "regressed", -0.05, True),
        (0.9, 0.8, 1.0, "too few problems", 0.2, False),
        (0.9, 0.8, 1.0, "too few problems", -0.2, False),
    ],
)
def test_what_a_gate_asks(
    mean: float, low: float, high: float, verdict: Verdict, min_gain: float | None, expected: bool
) -> None:
    assert passes(Interval(mean, low, high), verdict, min_gain) == expected


@pytest.mark.parametrize(
    ("min_gain", "code", "told"),
    [(0.2, 0, "held: improved, pass@1 +0.310 [+0.270, +0.360], at least +0.2"), (None, 0, "gate | off")],
)
def test_a_gate_that_holds_says_so(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str], min_gain: float | None, code: int, told: str
) -> None:
    check_gate(evaluated({"evaluate.gate.min_gain": min_gain}))
    assert told in capsys.readouterr().out


def test_a_gate_that_does_not_hold_is_an_error_of_its_own(evaluated: Evaluated) -> None:
    with pytest.raises(GateError, match="min_gain") as caught:
        check_gate(evaluated({"evaluate.gate.min_gain": 0.5}))
    assert caught.value.exit_code == 3
    for text in ("+0.310", "[+0.270, +0.360]", "+0.5", "results/report.html"):
        assert text in str(caught.value)


def test_what_is_asked_is_asked_of_the_params_that_are_there(evaluated: Evaluated, params_with: ParamsWith) -> None:
    """Not of those under which the evaluation ran: no file with results says what to ask."""
    evaluated({"evaluate.gate.min_gain": 0.2})
    with pytest.raises(GateError):
        check_gate(params_with({"evaluate.gate.min_gain": 0.9}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: METRICS.write_text(METRICS.read_text().replace("0.31", "0.91")), "metrics.json changed"),
        (lambda: METRICS.write_text("<<<<<<< HEAD\n"), "metrics.json changed"),
        (lambda: METRICS.write_text(""), "metrics.json changed"),
        (lambda: METRICS.unlink(), "metrics.json missing"),
        (lambda: (EVALUATE_RESULTS / MANIFEST).write_text("{"), "no JSON"),
        (lambda: (EVALUATE_RESULTS / MANIFEST).unlink(), "without manifest.json"),
        (lambda: shutil.rmtree(EVALUATE_RESULTS), "no such folder"),
        (lambda: (GRPO_MODEL / "model.safetensors").write_text("other"), "model.safetensors changed"),
        (lambda: (SFT_MODEL / "model.safetensors").unlink(), "model.safetensors missing"),
        (lambda: shutil.rmtree(PREPARED), "no such folder"),
        (lambda: write_json(GRPO_MODEL / MANIFEST, json.loads((GRPO_MODEL / MANIFEST).read_text()) | {"a": 1}), "grpo"),
    ],
)
def test_what_changed_since_does_not_pass(evaluated: Evaluated, change: Callable[[], Any], named: str) -> None:
    params = evaluated({})
    check_gate(params)
    change()
    with pytest.raises(InputError) as caught:
        check_gate(params)
    assert named in f"{caught.value.where} {caught.value.got}"


@pytest.mark.parametrize(
    ("change", "command"),
    [
        (lambda: METRICS.write_text("<<<<<<< HEAD\n"), "dvc checkout results/evaluate/metrics.json"),
        (METRICS.unlink, "dvc checkout results/evaluate/metrics.json"),
        (lambda: (EVALUATE_RESULTS / MANIFEST).write_text("{"), "dvc checkout results/evaluate/manifest.json"),
        (lambda: (GRPO_MODEL / "model.safetensors").write_text("other"), "dvc checkout models/grpo"),
        ((GRPO_MODEL / "model.safetensors").unlink, "dvc checkout models/grpo"),
    ],
)
def test_what_restores_a_file_is_who_has_it(evaluated: Evaluated, change: Callable[[], Any], command: str) -> None:
    """git has the outs that DVC does not cache."""
    params = evaluated({})
    change()
    with pytest.raises(InputError) as caught:
        check_gate(params)
    assert f"restore it with `{command}`, or run `posttrain" in caught.value.do


def test_results_of_other_params_do_not_pass(evaluated: Evaluated, params_with: ParamsWith) -> None:
    evaluated({})
    with pytest.raises(InputError, match=r"evaluate\.temperature 0\.6, now 0\.9"):
        check_gate(params_with({"evaluate.temperature": 0.9}))
    check_gate(params_with({"grpo.learning_rate": 1e-6}))  # the models say what they are of


def test_the_command_exits_with_what_it_means(evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate"]) == 2
    assert "posttrain evaluate" in capsys.readouterr().err
    evaluated({})
    assert main(["gate"]) == 0
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("min_gain: 0.2", "min_gain: 0.5"))
    assert main(["gate"]) == 3
