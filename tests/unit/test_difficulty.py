"""Difficulty: pass rates are those of the model that is named, survive a kill, and decide what GRPO trains on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from posttrain.errors import InputError
from posttrain.grpo import attempts
from posttrain.grpo.difficulty import Measured, Rate, Selection, chosen, histogram, measure, require_enough
from posttrain.grpo.trainer import trainer_config
from posttrain.judge.verifier import Verifier
from posttrain.params.schema import Difficulty, Params
from posttrain.paths import DIFFICULTY, GRPO_RESULTS
from posttrain.prompts import completion_text
from tests.conftest import params_of
from tests.templates import TEMPLATES
from tests.trainers import learnt_checkpoint

Row = dict[str, Any]
ROWS = [{"id": name, "problem": name, "answer": "1"} for name in "abcdef"]
RATES = {name: Rate(name, right, 8) for name, right in zip("abcdef", (0, 8, 4, 1, 7, 4), strict=True)}


def wanted(**changes: Any) -> Difficulty:
    return Difficulty(
        **{"model": None, "num_samples": 8, "min_pass": 0.1, "max_pass": 0.9, "order": "shuffled"} | changes
    )


def ids(rows: Sequence[Row]) -> str:
    return "".join(row["id"] for row in rows)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, "cdef"),
        ({"min_pass": 0.125, "max_pass": 0.5}, "cdf"),
        ({"min_pass": 0.0, "max_pass": 1.0}, "abcdef"),
        ({"min_pass": 0.0, "max_pass": 1.0, "order": "easy_first"}, "becfda"),
    ],
)
def test_bounds_belong_to_the_range_and_a_curriculum_begins_with_the_easy(asked: dict[str, Any], kept: str) -> None:
    assert ids(chosen(ROWS, RATES, wanted(**asked))) == kept


def test_tenths_have_every_problem_once() -> None:
    assert histogram(list(RATES.values())) == [1, 1, 0, 0, 0, 2, 0, 0, 1, 1]


def test_too_few_problems_are_said_with_how_hard_they_are() -> None:
    selection = Selection(chosen(ROWS, RATES, wanted()), list(RATES.values()))
    require_enough(selection, wanted(), 4)
    with pytest.raises(InputError, match=r"4 of 6 problems .* 0\.1 to 0\.9; by tenths: 1 1 0 0 0 2 0 0 1 1"):
        require_enough(selection, wanted(), 5)


def test_a_killed_measurement_goes_on(project: Path) -> None:
    """What was written counts, a line that was cut off does not, and nothing is measured twice."""
    facts, asked = {"model": "m"}, []

    def attempt(rows: Sequence[Row]) -> list[Rate]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(ids(rows))
        return [RATES[row["id"]] for row in rows]

    with pytest.raises(KeyboardInterrupt):
        measure(ROWS, Measured(facts), attempt, 2)
    (path,) = DIFFICULTY.glob("*/0.jsonl")
    path.write_text(path.read_text() + '{"id": "e", "right": 7, "sam')
    assert Measured(facts).rates() == {name: RATES[name] for name in "abcd"}
    asked.clear()
    measure(ROWS, Measured(facts, process=1), attempt, 2)
    assert asked == ["ef"]
    assert Measured(facts).rates() == RATES
    Measured(facts, process=0).add([Rate("g", 1, 8)])  # after the line that was cut off
    assert Measured(facts).rates() == RATES | {"g": Rate("g", 1, 8)}
    assert Measured({"model": "n"}).rates() == {}


# ---------------------------------------------------------------------------------------------------------------------
# A model that knows two problems by heart

KNOWN = [
    {
        "id": str(x),
        "problem": f"Solve: 3x - 5 = {3 * x - 5}",
        "answer": f"x = {x}",
        "completion": completion_text(f"3x = {3 * x}", f"x = {x}"),
    }
    for x in (5, 7)
]
ASKED = [*KNOWN, {"id": "wrong", "problem": KNOWN[0]["problem"], "answer": "x = 6"}]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}


def changed(**difficulty: Any) -> Params:
    section = {"model": "models/base/own", "num_samples": 4, "min_pass": 0.5, "max_pass": 1.0, "order": "shuffled"}
    return params_of(
        {
            "model.scratch": SMALL,
            "grpo.max_completion_length": 64,
            "grpo.temperature": 0.2,
            "grpo.prompts_per_step": 2,
            "grpo.num_generations": 2,
            "grpo.difficulty": section | difficulty,
        }
    )


@pytest.mark.parametrize("template", ["Qwen2.5", "Qwen3-Thinking-2507"])
def test_the_named_model_is_measured_once(
    template: str, project: Path, verifier: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also behind a template that opens the thoughts itself. Neither time does it touch the run's generators."""
    params = changed()
    learnt_checkpoint(params, TEMPLATES[template], KNOWN, project / "models/base/own")
    args = trainer_config(params, project / "trainer")
    before = torch.get_rng_state()
    selection = attempts.select(ASKED, params, args, verifier)
    assert [(rate.id, rate.right, rate.samples) for rate in selection.rates] == [
        ("5", 4, 4),
        ("7", 4, 4),
        ("wrong", 0, 4),
    ]
    assert ids(selection.rows) == "57"
    assert torch.equal(torch.get_rng_state(), before)
    assert "2 of 3 problems train" in capsys.readouterr().out
    (file,) = DIFFICULTY.glob("*/0.jsonl")
    written = file.read_bytes()
    assert attempts.select(ASKED, params, args, verifier) == selection
    assert file.read_bytes() == written
    selection.publish()
    assert pq.read_table(GRPO_RESULTS / "difficulty.parquet").to_pylist() == [
        {"id": "5", "right": 4, "samples": 4, "trains": True},
        {"id": "7", "right": 4, "samples": 4, "trains": True},
        {"id": "wrong", "right": 0, "samples": 4, "trains": False},
    ]
    assert selection.metrics() == {
        "difficulty/problems": 3,
        "difficulty/trained": 2,
        "difficulty/pass_rate": pytest.approx(2 / 3),
    }
    other = json.loads(json.dumps(attempts.facts(project / "models/base/own", changed(num_samples=8))))
    assert Measured(other).rates() == {}


def test_nothing_is_measured_where_params_ask_for_nothing(project: Path, verifier: Verifier) -> None:
    params = params_of({"grpo.difficulty": None})
    selection = attempts.select(ASKED, params, trainer_config(params, project / "trainer"), verifier)
    assert selection == Selection(ASKED)
    selection.publish()
    assert pq.read_table(GRPO_RESULTS / "difficulty.parquet").num_rows == 0
    assert selection.metrics() == {}


def test_a_curriculum_is_not_shuffled(tmp_path: Path) -> None:
    assert trainer_config(changed(), tmp_path).shuffle_dataset
    assert not trainer_config(changed(order="easy_first"), tmp_path).shuffle_dataset


@pytest.mark.parametrize("model", ["models/base/none", "elsewhere", "/models/base/own"])
def test_a_model_that_is_no_dependency_is_refused(model: str, project: Path) -> None:
    with pytest.raises(InputError, match=r"grpo\.difficulty\.model"):
        attempts.model_folder(changed(model=model))
