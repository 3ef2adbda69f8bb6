"""Difficulty: pass rates are those of the model that is named, survive a kill, and decide what GRPO trains on."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from posttrain.commands import data
from posttrain.errors import InputError, PosttrainError
from posttrain.generation.generators import Transformers
from posttrain.grpo import attempts
from posttrain.grpo.difficulty import Rate, Selection, chosen, histogram, require_enough
from posttrain.grpo.trainer import trainer_config
from posttrain.judge.verifier import Verifier
from posttrain.launch.environment import WORKER
from posttrain.outputs.manifest import write_jsonl
from posttrain.params.schema import Difficulty, Params
from posttrain.paths import COMPLETIONS, DIFFICULTY, GRPO_RESULTS, PREPARED, SFT_MODEL
from tests.conftest import params_of
from tests.held_locks import is_released
from tests.templates import TEMPLATES
from tests.trainers import KNOWN, SMALL, learnt_checkpoint
from tests.unit import test_vllm
from tests.unit.test_vllm import asked, write_stand_in

Row = dict[str, Any]
ROWS = [{"id": name, "problem": name, "answer": "1"} for name in "abcdef"]
ask = test_vllm.ask
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


def test_the_data_card_says_how_hard_the_problems_are(project: Path) -> None:
    Selection(ROWS, list(RATES.values())).publish()
    said = {row["below"]: row["number"] for row in data.measured()}
    assert said == {10: 1, 20: 1, 30: 0, 40: 0, 50: 0, 60: 2, 70: 0, 80: 0, 90: 1, 100: 1}


def test_too_few_problems_are_said_with_how_hard_they_are() -> None:
    selection = Selection(chosen(ROWS, RATES, wanted()), list(RATES.values()))
    require_enough(selection, wanted(), 4)
    with pytest.raises(InputError, match=r"4 of 6 problems .* 0\.1 to 0\.9; by tenths: 1 1 0 0 0 2 0 0 1 1"):
        require_enough(selection, wanted(), 5)


# ---------------------------------------------------------------------------------------------------------------------
# A model that knows two problems by heart

ASKED = [*KNOWN, {"id": "wrong", "problem": KNOWN[0]["problem"], "answer": "x = 6"}]


def changed(keys: dict[str, Any] | None = None, **difficulty: Any) -> Params:
    section = {"model": "models/base/own", "num_samples": 4, "min_pass": 0.5, "max_pass": 1.0, "order": "shuffled"}
    return params_of(
        {
            "model.scratch": SMALL,
            "grpo.max_completion_length": 64,
            "grpo.temperature": 0.2,
            "grpo.prompts_per_step": 2,
            "grpo.num_generations": 2,
            "grpo.difficulty": section | difficulty,
            **(keys or {}),
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
    shutil.rmtree(COMPLETIONS)
    assert attempts.select(ASKED, params, args, verifier) == selection
    assert not COMPLETIONS.exists()
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


def exam(params: Params) -> attempts.Attempts:
    assert params.grpo.difficulty is not None
    return attempts.Attempts(ASKED, params, params.grpo.difficulty)


@pytest.fixture
def own(project: Path) -> Params:
    """Params of which a model is there, and batches of one problem."""
    params = changed({"grpo.prompts_per_step": 1, "grpo.num_generations": 4})
    learnt_checkpoint(params, TEMPLATES["Qwen2.5"], KNOWN, project / "models/base/own")
    return params


ANEW = {
    "grpo.temperature": 0.3,
    "grpo.top_p": 0.5,
    "grpo.max_completion_length": 32,
    "grpo.generation_dtype": "bfloat16",
    "seed": 7,
    "verifier.timeout_s": 1.5,
    "prompts.system": "Think.",
}


def test_what_decides_a_rate_is_asked_anew_and_hardware_is_not(own: Params) -> None:
    before = exam(own).measured.path
    paths = {exam(changed({key: value})).measured.path for key, value in ANEW.items()}
    assert len(paths - {before}) == len(ANEW)
    assert exam(changed(num_samples=8)).measured.path != before
    assert exam(changed({"launch.micro_batch_size": 64, "grpo.learning_rate": 1e-5})).measured.path == before
    path = Path("models/base/own/config.json")
    path.write_text(path.read_text() + "\n")
    assert exam(own).measured.path != before


def test_a_killed_measurement_goes_on(own: Params, verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is written once, also where the second process of two writes what the first left."""
    args = trainer_config(own, Path("trainer"))
    written: list[int] = []
    write = Transformers.write

    def killed_at_the_third(self: Transformers, *asked: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(asked[0]))
        return write(self, *asked)

    monkeypatch.setattr(Transformers, "write", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        attempts.select(ASKED, own, args, verifier)
    assert not DIFFICULTY.exists()
    written.clear()
    found = attempts.select(ASKED, own, args, verifier)
    assert written == [1]
    assert [rate.right for rate in found.rates] == [4, 4, 0]


def test_shares_of_two_processes_are_the_rates_of_one(own: Params, verifier: Verifier) -> None:
    asked = exam(own)
    with asked.engine() as engine:
        shares = [asked.rates(engine, verifier, process, 2) for process in (0, 1)]
        shutil.rmtree(COMPLETIONS)
        alone = asked.rates(engine, verifier)
    assert sorted(map(len, shares)) == [1, 2]
    assert sorted(shares[0] + shares[1], key=lambda rate: rate.id) == sorted(alone, key=lambda rate: rate.id)


# ---------------------------------------------------------------------------------------------------------------------
# With a vLLM server


@pytest.fixture
def served(ask: Callable[..., Params]) -> Callable[..., Params]:
    """Params whose pass rates the stand-in's server measures, which answers by a rule; models and data are there."""

    def build(changes: dict[str, Any] | None = None, **faults: Any) -> Params:
        section = {"model": None, "num_samples": 4, "min_pass": 0.0, "max_pass": 1.0, "order": "shuffled"}
        keys: dict[str, Any] = {"grpo.use_vllm": True, "grpo.difficulty": section, "grpo.max_completion_length": 6}
        rest = {"grpo.probe.problems": 0, "grpo.prompts_per_step": 2, "grpo.num_generations": 2, "model.scratch": SMALL}
        return ask({**keys, **rest, **(changes or {})}, no_engine=True, **faults)

    params = build()
    learnt_checkpoint(params, TEMPLATES["Qwen2.5"], KNOWN, SFT_MODEL)
    return build


@pytest.fixture
def there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and models, without the manifests of the stages that make them."""
    monkeypatch.setattr(attempts, "require_out", lambda *_: {})
    monkeypatch.setattr(attempts, "require_model", lambda *_: {})
    PREPARED.mkdir(parents=True)
    write_jsonl(PREPARED / "train.jsonl", ASKED)


@pytest.mark.usefixtures("there")
def test_a_server_measures_before_the_stage_starts_and_ends(
    served: Callable[..., Params], verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = served()
    attempts.measure_by_server(params)
    assert is_released("server.lock", 0.5)
    started, *requests = asked()
    assert started["argv"]["model"] == "models/sft"
    assert started["argv"]["weight_transfer_config"] is None
    seeds = {attempts.seed(params.seed, row["id"], number) for row in ASKED for number in range(4)}
    assert {request["seed"] for request in requests} == seeds
    assert {request["max_tokens"] for request in requests} == {6}
    attempts.measure_by_server(served())
    monkeypatch.setenv(WORKER, "1")
    attempts.measure_by_server(served({"seed": 99}))
    monkeypatch.delenv(WORKER)
    assert len(asked()) == 13
    order = served({"grpo.use_vllm": False})  # what the stage's own processes do, whose trainer wants a GPU with vLLM
    args = trainer_config(order, Path("trainer"))
    assert [rate.samples for rate in attempts.select(ASKED, params, args, verifier).rates] == [4, 4, 4]
    with pytest.raises(PosttrainError, match="before this process starts"):
        attempts.select(ASKED, served({"seed": 99}), args, verifier)


@pytest.mark.usefixtures("there")
def test_a_server_that_dies_has_measured_what_it_wrote(
    served: Callable[..., Params], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.vllm.generator.REQUESTS", 1)  # a batch is a problem, one request at a time
    monkeypatch.setattr("posttrain.vllm.generator.WAITS_S", ())
    (project / "env/lib/python3.11/site-packages/vllm-0.30.0.dist-info").mkdir(parents=True)
    (project / "env/bin").mkdir()
    python = {"launch.vllm.python": str(write_stand_in(project / "env/bin"))}
    with pytest.raises(PosttrainError, match="exited with 5"):
        attempts.measure_by_server(served(python, dies_after=5))
    assert not DIFFICULTY.exists()
    before = len(asked())
    attempts.measure_by_server(served(python))
    assert len(asked()) - before == 1 + 8  # its start, and the two problems that were not whole
    assert len(list(DIFFICULTY.iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [{"grpo.use_vllm": False}, {"launch.vllm.server_base_url": "http://10.0.0.7:8000"}, {"launch.machines": 2}],
)
def test_no_server_measures_where_the_stages_processes_do(
    changes: dict[str, Any], served: Callable[..., Params]
) -> None:
    attempts.measure_by_server(served(changes))
    assert not Path("asked.jsonl").exists()


def test_nothing_is_measured_where_params_ask_for_nothing(project: Path, verifier: Verifier) -> None:
    params = params_of({"grpo.difficulty": None})
    selection = attempts.select(ASKED, params, trainer_config(params, project / "trainer"), verifier)
    assert selection == Selection(ASKED)
    assert data.measured() == []
    selection.publish()
    assert pq.read_table(GRPO_RESULTS / "difficulty.parquet").num_rows == 0
    assert data.measured() == []
    assert selection.metrics() == {}


def test_a_curriculum_is_not_shuffled(tmp_path: Path) -> None:
    assert trainer_config(changed(), tmp_path).shuffle_dataset
    assert not trainer_config(changed(order="easy_first"), tmp_path).shuffle_dataset


@pytest.mark.parametrize("model", ["models/base/none", "elsewhere", "/models/base/own"])
def test_a_model_that_is_no_dependency_is_refused(model: str, project: Path) -> None:
    with pytest.raises(InputError, match=r"grpo\.difficulty\.model"):
        attempts.model_folder(changed(model=model))
